"""Batch norms that are folded into the convolutions before them: published weights often are."""

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def is_folded(norm: nn.Module) -> bool:
    """Whether a batch norm's statistics are those of no change: mean 0, variance 1."""
    mean, var = norm.running_mean, norm.running_var
    return (
        mean is not None and not mean.any() and torch.allclose(var, torch.ones_like(var), atol=1e-3)
    )


@HOOKS.register_module()
class KeepFoldedNorms(Hook):
    """Keeps folded batch norms in evaluation: a batch's own statistics would be another network."""

    def before_train(self, runner) -> None:
        self._norms = [
            m for m in runner.model.modules() if isinstance(m, _BatchNorm) and is_folded(m)
        ]

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        for norm in self._norms:
            norm.eval()
