"""Tokens of features, and noise losses estimated on a sample of them."""

import pytest
import torch
from torch import nn

from mmdenoiserep import Denoiser
from mmdenoiserep.network.tokens import sample_tokens


@pytest.mark.parametrize(
    ('shape', 'channel_dim'),
    [((3, 4, 5), -1), ((7, 5), -1), ((5,), -1), ((2, 5, 4, 2), -3), ((5, 4, 2), -3)],
)
@pytest.mark.parametrize('contiguous', [True, False])
def test_tokens_are_the_vectors_over_the_channels(shape, channel_dim, contiguous):
    x = torch.arange(torch.Size(shape).numel()).reshape(shape)
    if not contiguous:
        x = x.flip(0).transpose(0, -1).contiguous().transpose(0, -1).flip(0)
    expected = {tuple(token.tolist()) for token in x.movedim(channel_dim, -1).reshape(-1, 5)}
    everything = sample_tokens(x, channel_dim)
    assert {tuple(token.tolist()) for token in everything} == expected
    assert len(everything) == len(expected) == len(sample_tokens(x, channel_dim, 1000))
    some = sample_tokens(x, channel_dim, max(1, len(expected) - 1))
    assert some.shape == (max(1, len(expected) - 1), 5)
    assert {tuple(token.tolist()) for token in some} <= expected
    many = torch.cat([sample_tokens(x, channel_dim, 1) for _ in range(300)])
    assert {tuple(token.tolist()) for token in many} == expected  # none is left out


@pytest.mark.parametrize(
    ('layer', 'shape'),
    [(nn.Linear(6, 2), (2, 30, 6)), (nn.Conv2d(6, 6, 3, groups=3), (2, 6, 6, 5))],
)
@pytest.mark.parametrize('loss', ['l1', 'l2'])
def test_the_sampled_loss_and_its_gradient_are_unbiased(layer, shape, loss):
    torch.manual_seed(0)
    denoiser = Denoiser(layer, step=300, loss=loss)
    nn.init.normal_(denoiser.weight)
    x = (
        torch.randn(shape)
        * torch.linspace(0, 3, 60).reshape(2, *(1,) * (len(shape) - 2), -1)[..., : shape[-1]].abs()
    )

    def mean(draws: int, **kwargs) -> tuple:
        denoiser.zero_grad()
        value = torch.stack([denoiser.noise_loss(x, **kwargs) for _ in range(draws)]).mean()
        value.backward()
        return value.item(), denoiser.weight.grad.clone()

    value, gradient = mean(3000, max_tokens=8)
    expected, expected_gradient = mean(400)
    assert value == pytest.approx(expected, rel=0.02)
    assert (gradient - expected_gradient).norm() < 0.05 * expected_gradient.norm()


def test_the_work_is_bounded():
    denoiser = Denoiser(nn.Linear(4, 2), step=1)
    sizes = []
    denoiser.schedule.q_sample = lambda x, t, noise: sizes.append(len(x)) or x
    denoiser.noise_loss(torch.randn(2, 50, 4), max_tokens=16)
    denoiser.noise_loss(torch.randn(2, 5, 4), max_tokens=16)
    assert sizes == [16, 10]
