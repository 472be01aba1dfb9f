"""Which layers of a network are denoised."""

import re
from collections import Counter
from typing import List, Optional, Sequence, Set

from mmengine.logging import print_log
from torch import Tensor, nn

from .probe import probe_calls

#: The feed-forward layers of transformers, under the names that OpenMMLab, timm and torchvision
#: give them. A name has to match in full, so SwinV2's ``cpb_mlp``, which sees coordinates and no
#: features, stays out.
FEED_FORWARD = r'(.*\.)?(ffn|mlp|feed_forward)(\..*)?'


def select_layers(
    model: nn.Module,
    targets: Optional[Sequence[str]] = None,
    depthwise: bool = False,
    example: Optional[Tensor] = None,
) -> List[str]:
    """Names of the layers to denoise, in the order in which data passes them.

    See :func:`mmdenoiserep.insert_denoisers` for the arguments.

    Raises:
        ValueError: If a target matches no layer that can be denoised, one that is never called,
            or one that shares its weight.
    """
    layers = {name: m for name, m in model.named_modules() if _applies_its_weight(m)}
    if not depthwise:
        layers = {name: m for name, m in layers.items() if not is_depthwise(m)}
    if not layers:
        raise ValueError(f'{type(model).__name__} has no Linear or Conv2d layer to denoise')
    if targets is None:
        names = [name for name in layers if re.fullmatch(FEED_FORWARD, name)] or list(layers)
    else:
        names = _match(targets, list(layers))

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
            if not isinstance(layers[name], nn.Conv2d)
            or not (calls[name].takes_model_input or calls[name].position == 0)
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


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution with one input channel a group.

    Its denoiser would be one number a channel: it could rescale a channel, but not tell noise
    from signal by looking at the other channels.
    """
    return isinstance(layer, nn.Conv2d) and layer.groups > 1 and layer.groups == layer.in_channels


def _applies_its_weight(module: nn.Module) -> bool:
    # A subclass with a forward of its own may not be linear in its weight (a weight-standardized
    # convolution is not): W A would then not be the layer behind A. mmcv's wrappers are fine.
    if not isinstance(module, (nn.Linear, nn.Conv2d)):
        return False
    # Missing where another parametrization or a weight norm computes it; not known yet where lazy.
    weight = module._parameters.get('weight')
    if weight is None or isinstance(weight, nn.parameter.UninitializedParameter):
        return False
    forward = type(module).forward
    return (
        forward in (nn.Linear.forward, nn.Conv2d.forward)
        or forward.__module__ == 'mmcv.cnn.bricks.wrappers'
    )


def _shared_weights(model: nn.Module) -> Set[Tensor]:
    counts = Counter(p for m in model.modules() for p in m._parameters.values() if p is not None)
    return {parameter for parameter, count in counts.items() if count > 1}


def _match(targets: Sequence[str], names: List[str]) -> List[str]:
    if isinstance(targets, str):
        targets = [targets]
    for target in targets:
        if not any(re.fullmatch(target, name) for name in names):
            raise ValueError(
                f'target {target!r} matches no layer that can be denoised (Linear and Conv2d '
                'whose output is their weight applied to their input; depthwise ones only with '
                f'depthwise=True); there are {_listed(names)}'
            )
    return [name for name in names if any(re.fullmatch(target, name) for target in targets)]


def _listed(names: List[str], most: int = 5) -> str:
    rest = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(repr(name) for name in names[:most]) + rest
