"""Optimizer steps in one pass over the memory."""

import pytest
import torch
from mmengine.utils import digit_version
from torch import nn

from mmdenoiserep.training import fuse_optimizer

SUPPORTED = digit_version(torch.__version__) >= digit_version('2.4.0')


@pytest.mark.parametrize('kind', [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_fused_steps_are_the_same_steps(kind):
    torch.manual_seed(0)
    first = nn.Linear(3, 2)
    second = nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())
    optimizers = [kind(m.parameters(), lr=0.1, weight_decay=0.1) for m in (first, second)]
    assert fuse_optimizer(optimizers[1]) is SUPPORTED
    x = torch.randn(5, 3)
    for _ in range(3):
        for model, optimizer in zip((first, second), optimizers):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    assert torch.allclose(first.weight, second.weight, atol=1e-6)
    again = kind(second.parameters(), lr=0.1)
    again.load_state_dict(optimizers[1].state_dict())
    again.step()


def test_others_and_chosen_implementations_are_left_alone():
    parameters = [nn.Parameter(torch.zeros(2))]
    assert not fuse_optimizer(torch.optim.Rprop(parameters))
    for chosen in (dict(foreach=True), dict(foreach=False), dict(fused=False)):
        assert not fuse_optimizer(torch.optim.AdamW(parameters, **chosen))
    assert not fuse_optimizer(None)
