import math

import pytest
import torch

from mmdenoiserep import NoiseSchedule


def test_linear_schedule_by_hand():
    schedule = NoiseSchedule(num_steps=3, beta_start=0.1, beta_end=0.3)
    betas, alpha_bars = [0.1, 0.2, 0.3], [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7]
    for t in (1, 2, 3):
        beta, alpha_bar = betas[t - 1], alpha_bars[t - 1]
        assert schedule.alpha(t) == pytest.approx(1 - beta, rel=1e-12)
        assert schedule.alpha_bar(t) == pytest.approx(alpha_bar, rel=1e-12)
        c1 = beta / (math.sqrt(1 - beta) * math.sqrt(1 - alpha_bar))
        assert schedule.c1(t) == pytest.approx(c1, rel=1e-12)


def test_defaults_are_ddpm():
    schedule = NoiseSchedule()
    assert schedule.num_steps == 1000
    assert schedule.betas[0].item() == pytest.approx(1e-4)
    assert schedule.betas[-1].item() == pytest.approx(0.02)
    assert schedule.alpha_bar(1000) < 1e-4  # nothing of the feature is left


def test_q_sample_has_the_variance_of_its_step():
    torch.manual_seed(0)
    schedule = NoiseSchedule()
    x = torch.full((100_000,), 2.0, dtype=torch.float64)
    x_t = schedule.q_sample(x, 300, torch.randn_like(x))
    alpha_bar = schedule.alpha_bar(300)
    assert x_t.mean().item() == pytest.approx(2 * math.sqrt(alpha_bar), rel=1e-2)
    assert x_t.var().item() == pytest.approx(1 - alpha_bar, rel=2e-2)


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(num_steps=0),
        dict(beta_start=0),
        dict(beta_start=0.1, beta_end=0.01),
        dict(beta_end=1),
    ],
)
def test_impossible_schedules_are_refused(kwargs):
    with pytest.raises(ValueError):
        NoiseSchedule(**kwargs)


@pytest.mark.parametrize('t', [0, 1001])
def test_steps_are_counted_from_one(t):
    with pytest.raises(ValueError, match=r'1\.\.1000'):
        NoiseSchedule().c1(t)
