"""Fine-tuning of a network whose batch norms are folded into its convolutions."""

import pytest
import torch
from torch import nn

pytest.importorskip('imagecorruptions')
from experiments.deployment.folded import KeepFoldedNorms, is_folded


def test_a_folded_batch_norm_does_not_take_statistics_of_its_own():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    nn.init.constant_(model[2].running_mean, 0.5)
    assert is_folded(model[0]) and not is_folded(model[2])
    runner = type('Runner', (), dict(model=model.train()))
    hook = KeepFoldedNorms()
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    x = torch.randn(4, 2, 3, 3) + 5
    assert torch.allclose(model[0](x), x, atol=1e-4)
    assert not model[0].training and model[2].training
