"""Any registered backbone with denoisers in it."""

import dataclasses
from typing import Any, Optional, Sequence

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from ..conversion import insert_denoisers
from ..diffusion import Cascade
from ..registry import MODELS
from .initialization import redirect_init_weights


@MODELS.register_module()
def DenoiseRepBackbone(
    module: dict,
    targets: Optional[Sequence[str]] = None,
    loss: str = 'l1',
    reach: str = 'channel',
    depthwise: bool = False,
    example_shape: Optional[Sequence[int]] = None,
    pretrained: Optional[str] = None,
    **cascade: Any,
) -> nn.Module:
    """Build a backbone from its config and insert denoisers into it.

    A function and not a wrapping module: what it returns *is* the stock backbone, with its
    class, its attributes and its state dict keys, so everything that knows the stock backbone
    (layer-wise learning rate decay, ``frozen_stages``, ``out_channels``) goes on working.

    Args:
        module (dict): Config of a backbone registered with MMDetection, MMSegmentation,
            MMPretrain or any other child of MMEngine's ``MODELS``.
        targets (Sequence[str], optional): See :func:`mmdenoiserep.insert_denoisers`, as for
            ``loss``, ``reach`` and ``depthwise``.
        example_shape (Sequence[int], optional): Shape of an input that the backbone accepts,
            as (N, C, H, W). By default several are tried.
        pretrained (str, optional): Handed to the backbone: MMSegmentation's models put their own
            ``pretrained`` into the backbone's config.
        **cascade: Arguments of :class:`mmdenoiserep.Cascade`: ``schedule`` (a dict), ``estimate``,
            ``noise_scale``, ``noise``, ``last_step``, ``spacing``.

    Returns:
        nn.Module: The stock backbone with denoisers.

    Raises:
        ValueError: If an option is unknown, and see :func:`mmdenoiserep.insert_denoisers`.

    Examples:
        >>> backbone = dict(
        ...     type='mmdenoiserep.DenoiseRepBackbone',
        ...     module=dict(type='mmdet.ResNet', depth=50))
    """
    if pretrained is not None:
        module = dict(module, pretrained=pretrained)
    known = [field.name for field in dataclasses.fields(Cascade)]
    for name in cascade:
        if name not in known:
            raise ValueError(f'DenoiseRepBackbone has no option {name!r}; of a cascade: {known}')
    backbone = insert_denoisers(
        ROOT_MODELS.build(module),
        targets,
        cascade=Cascade(**cascade),
        loss=loss,
        reach=reach,
        depthwise=depthwise,
        example=None if example_shape is None else torch.zeros(*example_shape),
    )
    redirect_init_weights(backbone)
    return backbone
