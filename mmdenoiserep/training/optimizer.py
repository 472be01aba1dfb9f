"""Optimizer steps that cost less."""

import torch
from mmengine.utils import digit_version


def fuse_optimizer(optimizer: object) -> bool:
    """Let one of PyTorch's optimizers make its step in one pass over the memory, where it can.

    Denoisers have more parameters than the layers that they serve: with the default
    implementation, an AdamW step for SwinV2-T takes a seventh of a forward pass.

    Args:
        optimizer (torch.optim.Optimizer): Adam, AdamW and SGD are changed, in place, before their
            first step; others are left alone, as is one whose implementation was chosen.

    Returns:
        bool: Whether it is fused now.
    """
    kinds = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
    if not isinstance(optimizer, kinds) or type(optimizer) not in kinds:
        return False  # a subclass may make another step
    if digit_version(torch.__version__) < digit_version('2.4.0'):
        return False
    groups = optimizer.param_groups
    devices = {parameter.device.type for group in groups for parameter in group['params']}
    # Whether an implementation was chosen: False is a choice, too, where the default is None.
    chosen = any(group.get(k) is not None for group in groups for k in ('foreach', 'fused'))
    chosen = chosen or any(g.get(k) for g in groups for k in ('capturable', 'differentiable'))
    if chosen or not devices <= {'cpu', 'cuda'}:
        return False
    for group in groups:
        group['fused'] = True
    return True
