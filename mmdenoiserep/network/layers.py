"""What a layer is to a denoiser: where its channels are, and whether it is linear in its weight.

A denoiser A fuses into W A wherever the layer is a weight of shape (out, in/groups, ...) applied to
its input. Which layers are is known by their class; other packages' classes are made known by
:func:`mmdenoiserep.register_layer`.
"""

from typing import Dict, List, Optional, Type, cast

from torch import Tensor, nn

#: By class: the dimension of the channels in its input. Negative, so that batched and unbatched
#: inputs are served alike. A subclass counts as its parent as long as it inherits ``forward``.
_CHANNEL_DIMS: Dict[Type[nn.Module], int] = {nn.Linear: -1, nn.Conv2d: -3}
#: Subclasses of mmcv's that have a forward of their own and are linear in their weight all the
#: same: for empty inputs under old releases of PyTorch, and with TensorFlow's padding.
_SAME_PADDING = 'mmcv.cnn.bricks.conv2d_adaptive_padding'
_MMCV_LAYERS = ('mmcv.cnn.bricks.wrappers', _SAME_PADDING)


def register_layer(cls: Type[nn.Module], channel_dim: int) -> Type[nn.Module]:
    """Make a class of layers known that applies its weight to its input, with a forward of its own.

    Args:
        cls (type[nn.Module]): The class. Its output has to be ``weight`` applied to its input, plus
            a bias that does not depend on the weight, with ``weight`` of shape
            (out, in/groups, ...).
        channel_dim (int): Dimension of the channels in its input, negative: -1 for (..., C) and
            -3 for (..., C, H, W).

    Returns:
        type[nn.Module]: The class, so that this serves as a decorator under
        ``functools.partial(register_layer, channel_dim=...)``.

    Raises:
        ValueError: If ``channel_dim`` is neither -1 nor -3.

    Examples:
        >>> register_layer(Linear2d, channel_dim=-3)  # a Linear on (N, C, H, W)
    """
    if channel_dim not in (-1, -3):
        raise ValueError(f'channel_dim must be -1 or -3, got {channel_dim}')
    _CHANNEL_DIMS[cls] = channel_dim
    return cls


def channel_dim_of(layer: nn.Module) -> Optional[int]:
    """The dimension of the channels in a layer's input; None where its kind is not known."""
    forward = type(layer).forward
    for cls in type(layer).__mro__:
        known = _CHANNEL_DIMS.get(cls)
        if known is not None and (
            forward is getattr(cls, 'forward', None)
            or getattr(forward, '__module__', '') in _MMCV_LAYERS
        ):
            return known
    return None


def padding_of(conv: nn.Conv2d, height: int, width: int) -> List[int]:
    """What a convolution puts around its input: [left, right, top, bottom]."""
    if getattr(type(conv).forward, '__module__', '') != _SAME_PADDING:
        if conv.padding_mode == 'zeros' and not isinstance(conv.padding, str):
            # As forward reads it: MMSegmentation's MobileNetV3 sets it after construction.
            return [size for size in reversed(conv.padding) for _ in range(2)]
        return list(conv._reversed_padding_repeated_twice)
    padding: List[int] = []
    for i, side in ((1, width), (0, height)):
        last = (-(-side // conv.stride[i]) - 1) * conv.stride[i]  # where the last window begins
        total = max(last + (conv.kernel_size[i] - 1) * conv.dilation[i] + 1 - side, 0)
        padding += [total // 2, total - total // 2]
    return padding


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a layer, its own or a computed one."""
    return cast(Tensor, layer.weight)


def is_denoisable(layer: nn.Module) -> bool:
    """Whether a layer applies a weight of its own, and is of a known kind.

    A subclass with a forward of its own may not be linear in its weight: a weight-standardized
    convolution is not, and W A would not be that layer behind A.
    """
    # Missing where another parametrization or a weight norm computes it; not known yet where lazy.
    weight = layer._parameters.get('weight')
    if weight is None or isinstance(weight, nn.parameter.UninitializedParameter):
        return False
    return channel_dim_of(layer) is not None


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution with one input channel a group.

    Its denoiser would be one number a channel: it could rescale a channel, but not tell noise
    from signal by looking at the other channels.
    """
    groups = getattr(layer, 'groups', 1)
    return isinstance(layer, nn.Conv2d) and groups > 1 and groups == layer.in_channels


def unknown_layer_message(name: str, layer: nn.Module) -> str:
    """Why a layer cannot be denoised, and what to do, in one line."""
    kind = type(layer).__name__
    if not isinstance(layer, (nn.Linear, nn.Conv2d)):
        return f'{name!r} is a {kind} and no Linear or Conv2d'
    if 'weight' not in layer._parameters:
        return f'the weight of {name!r} is computed by a weight norm or another parametrization'
    return (
        f'{name!r} is a {kind}, which has a forward of its own; if that applies its weight to its '
        f'input, say where the channels are: mmdenoiserep.register_layer({kind}, channel_dim=-1) '
        'for (..., C), -3 for (..., C, H, W)'
    )
