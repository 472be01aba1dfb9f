"""Any registered backbone with denoisers in it."""

from typing import Optional, Sequence

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from ..conversion import insert_denoisers
from ..diffusion import NoiseSchedule
from ..initialization import initialize_as_stock
from ..registry import MODELS


@MODELS.register_module()
def DenoiseRepBackbone(
    module: dict,
    targets: Optional[Sequence[str]] = None,
    schedule: Optional[dict] = None,
    loss: str = 'l1',
    estimate: str = 'previous',
    noise_scale: str = 'unit',
    last_step: int = 1,
    spacing: int = 1,
    depthwise: bool = False,
    example_shape: Optional[Sequence[int]] = None,
    pretrained: Optional[str] = None,
) -> nn.Module:
    """Build a backbone from its config and insert denoisers into it.

    A function and not a wrapping module: what it returns *is* the stock backbone, with its
    class, its attributes and its state dict keys, so everything that knows the stock backbone
    (layer-wise learning rate decay, ``frozen_stages``, ``out_channels``) goes on working.

    Args:
        module (dict): Config of a backbone registered with MMDetection, MMSegmentation,
            MMPretrain or any other child of MMEngine's ``MODELS``.
        targets (Sequence[str], optional): See :func:`mmdenoiserep.insert_denoisers`, as for
            ``loss``, ``estimate``, ``noise_scale``, ``last_step``, ``spacing`` and ``depthwise``.
        schedule (dict, optional): Arguments of :class:`mmdenoiserep.NoiseSchedule`.
        example_shape (Sequence[int], optional): Shape of an input that the backbone accepts,
            as (N, C, H, W). By default several are tried.
        pretrained (str, optional): Handed to the backbone: MMSegmentation's models put their own
            ``pretrained`` into the backbone's config.

    Returns:
        nn.Module: The stock backbone with denoisers.

    Examples:
        >>> backbone = dict(
        ...     type='mmdenoiserep.DenoiseRepBackbone',
        ...     module=dict(type='mmdet.ResNet', depth=50))
    """
    if pretrained is not None:
        module = dict(module, pretrained=pretrained)
    backbone = insert_denoisers(
        ROOT_MODELS.build(module),
        targets,
        schedule=NoiseSchedule(**(schedule or {})),
        loss=loss,
        estimate=estimate,
        noise_scale=noise_scale,
        last_step=last_step,
        spacing=spacing,
        depthwise=depthwise,
        example=None if example_shape is None else torch.zeros(*example_shape),
    )
    initialize_as_stock(backbone)
    return backbone
