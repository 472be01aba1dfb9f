"""Which layers of a network are denoised."""

import re
from collections import Counter
from typing import List, Optional, Sequence, Set

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .layers import is_denoisable, is_depthwise, unknown_layer_message
from .probe import Call, probe_calls, scratch_copy
from .streams import look_behind

#: The feed-forward layers of transformers, under the names that OpenMMLab, timm and torchvision
#: give them. A name has to match in full, so SwinV2's ``cpb_mlp``, which sees coordinates and no
#: features, stays out.
FEED_FORWARD = r'(.*\.)?(ffn|mlp|feed_forward)(\..*)?'


def select_layers(
    model: nn.Module,
    targets: Optional[Sequence[str]] = None,
    depthwise: bool = False,
    example: Optional[Tensor] = None,
    measured: bool = False,
) -> List[str]:
    """Names of the layers to denoise, in the order in which data passes them.

    See :func:`mmdenoiserep.insert_denoisers` for the arguments.

    Raises:
        ValueError: If a target matches no layer that can be denoised, one that is never called,
            or one that shares its weight.
    """
    if measured and targets is None:
        return _measured_layers(model, example)
    layers = {name: m for name, m in model.named_modules() if is_denoisable(m)}
    if not (depthwise or measured):
        layers = {name: m for name, m in layers.items() if not is_depthwise(m)}
    if not layers:
        raise ValueError(f'{type(model).__name__} has no Linear or Conv2d layer to denoise')
    if targets is None:
        names = [name for name in layers if re.fullmatch(FEED_FORWARD, name)] or list(layers)
    else:
        names = _match(targets, list(layers), model)

    tied = _shared_weights(model)
    shared = [name for name in names if layers[name].weight in tied]
    if shared and targets is not None:
        raise ValueError(
            f'{_listed(shared)} shares its weight with another layer, which would be fused along '
            'with it; change `targets` so that they do not match it'
        )
    names = [name for name in names if name not in shared]

    calls = probe_calls(model, list(layers), example)
    silent = [name for name in names if name not in calls]
    names = sorted((name for name in names if name in calls), key=lambda n: calls[n].position)
    if targets is None:
        if silent:
            print_log(f'not denoised, since never called: {", ".join(silent)}', 'current')
        # The stem's first layer takes the image, which is no feature.
        names = [
            name
            for name in names
            if not isinstance(layers[name], nn.Conv2d) or not _takes_image(calls[name])
        ]
    elif silent:
        raise ValueError(
            f'{_listed(silent)} would get a denoiser but is never called in the forward pass '
            '(a parent module reads its weight, or it is not used), so the denoiser would see no '
            'features; change `targets` so that they do not match it'
        )
    if not names:
        raise ValueError(f'no layer of {type(model).__name__} is left to denoise; give `targets`')
    return names


def _measured_layers(model: nn.Module, example: Optional[Tensor]) -> List[str]:
    """What measured noise is taken out at, by default.

    In a network whose Linear layers write to a residual stream: those, and the stem. A branch's
    input may be denoised and the noise still passes by on the stream, and what is shrunk is wrong
    for the nonlinearity behind it. Elsewhere every layer, the stem and depthwise ones included.
    """
    layers = {name: m for name, m in model.named_modules() if is_denoisable(m)}
    calls = probe_calls(model, list(layers), example)
    tied = _shared_weights(model)
    names = [n for n in calls if layers[n].weight not in tied]
    streams = look_behind(_with_visible_scales(model), names, example).streams
    writers = {name for name in streams if isinstance(layers[name], nn.Linear)}
    if writers:
        stem = {n for n in names if isinstance(layers[n], nn.Conv2d) and _takes_image(calls[n])}
        names = [n for n in names if n in writers | stem]
    if not names:
        raise ValueError(f'{type(model).__name__} has no Linear or Conv2d layer to denoise')
    return sorted(names, key=lambda name: calls[name].position)


def _takes_image(call: Call) -> bool:
    """The image itself, or padded to whole patches (DaViT)."""
    return call.takes_model_input or call.position == 0


@torch.no_grad()
def _with_visible_scales(model: nn.Module) -> nn.Module:
    """A copy in which branches that are scaled to almost nothing at initialization (layer scale,
    1e-6 in ConvNeXt) are not: a checkpoint is yet to be loaded."""
    model = scratch_copy(model)
    for parameter in model.parameters():
        if parameter.ndim and parameter.numel():
            value = parameter.max()
            if 0 < value.abs() < 0.1 and (parameter == value).all():
                parameter.fill_(1)
    return model


def _shared_weights(model: nn.Module) -> Set[Tensor]:
    counts = Counter(p for m in model.modules() for p in m._parameters.values() if p is not None)
    return {parameter for parameter, count in counts.items() if count > 1}


def _match(targets: Sequence[str], names: List[str], model: nn.Module) -> List[str]:
    if isinstance(targets, str):
        targets = [targets]
    for target in targets:
        if any(re.fullmatch(target, name) for name in names):
            continue
        for name, module in model.named_modules():
            if re.fullmatch(target, name) and isinstance(module, (nn.Linear, nn.Conv2d)):
                if is_depthwise(module):
                    raise ValueError(f'{name!r} is a depthwise convolution: give depthwise=True')
                raise ValueError(unknown_layer_message(name, module))
        raise ValueError(
            f'target {target!r} matches no layer that can be denoised (Linear and Conv2d '
            'whose output is their weight applied to their input); there are '
            f'{_listed(names)}'
        )
    return [name for name in names if any(re.fullmatch(target, name) for target in targets)]


def _listed(names: List[str], most: int = 5) -> str:
    rest = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(repr(name) for name in names[:most]) + rest
