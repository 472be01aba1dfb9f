"""Any registered backbone with denoisers in it."""

import os.path as osp
import types
from typing import Optional, Sequence, Union

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from ..checkpoint import load_checkpoint_file
from ..conversion import FUSED_ALREADY, insert_denoisers, is_fused, without_denoisers
from ..diffusion import NoiseSchedule
from ..registry import MODELS


@MODELS.register_module()
def DenoiseRepBackbone(
    module: dict,
    targets: Optional[Sequence[str]] = None,
    schedule: Optional[dict] = None,
    loss: str = 'l1',
    depthwise: bool = False,
    example_shape: Optional[Sequence[int]] = None,
) -> nn.Module:
    """Build a backbone from its config and insert denoisers into it.

    A function and not a wrapping module: what it returns *is* the stock backbone, with its
    class, its attributes and its state dict keys, so everything that knows the stock backbone
    (layer-wise learning rate decay, ``frozen_stages``, ``out_channels``) goes on working.

    Args:
        module (dict): Config of a backbone registered with MMDetection, MMSegmentation,
            MMPretrain or any other child of MMEngine's ``MODELS``.
        targets (Sequence[str], optional): See :func:`mmdenoiserep.insert_denoisers`, as for
            ``loss`` and ``depthwise``.
        schedule (dict, optional): Arguments of :class:`mmdenoiserep.NoiseSchedule`.
        example_shape (Sequence[int], optional): Shape of an input that the backbone accepts,
            as (N, C, H, W). By default several are tried.

    Returns:
        nn.Module: The stock backbone with denoisers.

    Examples:
        >>> backbone = dict(
        ...     type='mmdenoiserep.DenoiseRepBackbone',
        ...     module=dict(type='mmdet.ResNet', depth=50))
    """
    backbone = insert_denoisers(
        ROOT_MODELS.build(module),
        targets,
        schedule=NoiseSchedule(**(schedule or {})),
        loss=loss,
        depthwise=depthwise,
        example=None if example_shape is None else torch.zeros(*example_shape),
    )
    if hasattr(backbone, 'init_weights'):
        # A bound method, so that a deepcopy of the backbone initializes itself.
        backbone.init_weights = types.MethodType(_init_stock_weights, backbone)
    return backbone


def _init_stock_weights(backbone: nn.Module) -> None:
    _refuse_fused(getattr(backbone, 'init_cfg', None))
    # Initializers write into ``layer.weight``, which is a computed W A while denoisers are in.
    with without_denoisers(backbone):
        type(backbone).init_weights(backbone)
    # BaseModule's record of what was initialized, which it expects in every module.
    record = getattr(backbone, '_params_init_info', None)
    if record is not None:
        for module in backbone.modules():
            module._params_init_info = record


def _refuse_fused(init_cfg: Union[dict, Sequence[dict], None]) -> None:
    # `init_cfg` with a prefix strips the mark that a state dict carries, so look into the file.
    for config in [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []:
        path = config.get('checkpoint') or ''
        if osp.isfile(path):
            try:
                state = load_checkpoint_file(path)['state_dict']
            except ValueError:
                continue  # not a checkpoint of MMEngine, so not a fused one
            if is_fused(state):
                raise RuntimeError(f'init_cfg names {path}: {FUSED_ALREADY}')
