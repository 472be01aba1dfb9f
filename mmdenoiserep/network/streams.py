"""Which layers write to a residual stream, and where the stream can be seen before they do.

A layer with output y writes to a stream u if some later feature is u + γ y + β, with γ and β
constant for each channel (batch norm in evaluation, layer scale, or 1 and 0). Found by looking, not
by names: one forward pass on a random image, in which every input and output of a module is kept.
"""

import copy
from typing import Dict, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor, nn

from .layers import channel_dim_of
from .probe import with_example
from .tokens import draw, take_tokens

#: Positions in which features are compared: a sum that holds there holds everywhere.
POSITIONS = 256
#: Features behind a layer in which its sum is looked for, and features before it that may be u.
AHEAD, BACK = 14, 60
TOLERANCE = 1e-4


class Stream(NamedTuple):
    """Where a layer writes.

    Attributes:
        module (str): The module that sees u, the stream before the layer writes to it.
        side (str): Whether u is its 'input' or its 'output'.
        scale (Tensor): γ, (C_out,), float64.
    """

    module: str
    side: str
    scale: Tensor


class _Seen(NamedTuple):
    module: str
    side: str
    value: Tensor


@torch.no_grad()
def find_streams(
    model: nn.Module, names: Sequence[str], example: Optional[Tensor] = None
) -> Dict[str, Stream]:
    """The layers that write to a residual stream.

    Args:
        model (nn.Module): The network, called as ``model(example)``. Not changed.
        names (Sequence[str]): Layers to look at.
        example (Tensor, optional): An input that it accepts. By default images of several sizes are
            tried.

    Returns:
        dict[str, Stream]: By the name of the layer.
    """
    model = copy.deepcopy(model)
    model.eval()
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device

    def run(x: Tensor) -> List[_Seen]:
        seen: List[_Seen] = []
        handles = _watch(model, seen)
        try:
            # Two images: more positions than a channel has constants, in small maps, too.
            model(torch.randn(2, *x.shape[1:], generator=generator).to(device, x.dtype))
        finally:
            for handle in handles:
                handle.remove()
        return seen

    seen = run(example) if example is not None else with_example(model, run)
    streams = {}
    for name in names:
        channel_dim = channel_dim_of(model.get_submodule(name))
        stream = None if channel_dim is None else _stream_of(name, channel_dim, seen)
        if stream is not None:
            streams[name] = stream
    return streams


def _watch(model: nn.Module, seen: List[_Seen]) -> list:
    handles = []
    for name, module in model.named_modules():

        def before(_, args, name=name):
            if args and isinstance(args[0], Tensor):
                seen.append(_Seen(name, 'input', args[0].clone()))  # others work in place

        def after(_, args, output, name=name):
            if isinstance(output, Tensor):
                seen.append(_Seen(name, 'output', output.clone()))

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    return handles


def _stream_of(name: str, channel_dim: int, seen: List[_Seen]) -> Optional[Stream]:
    own = [i for i, s in enumerate(seen) if s.module == name and s.side == 'output']
    if len(own) != 1:  # never called, or several times
        return None
    begin = next(i for i, s in enumerate(seen) if s.module == name and s.side == 'input')
    y = seen[own[0]].value
    earlier = [s for s in seen[max(0, begin - BACK) : begin] if s.value.shape == y.shape]
    later = [s for s in seen[own[0] + 1 : own[0] + 1 + AHEAD] if s.value.shape == y.shape]
    # The same positions of all of them; laying out whole maps anew would cost more than comparing.
    generator = torch.Generator().manual_seed(0)
    index = draw(y.numel() // y.shape[channel_dim], POSITIONS, generator)
    index = None if index is None else index.to(y.device)

    def tokens(feature: Tensor) -> Tensor:
        return take_tokens(feature, channel_dim, index).double()

    y = tokens(y)
    centred = y - y.mean(0)
    power = centred.square().sum(0)
    if not (power > 0).all() or len(y) < 3:
        return None
    streams = [(s, tokens(s.value)) for s in reversed(earlier)]
    streams = [(s, u) for s, u in streams if u.var(0).any()]  # a constant is no stream
    for after in later:
        total = tokens(after.value)
        for before, u in streams:
            rest = total - u
            rest = rest - rest.mean(0)
            scale = (rest * centred).sum(0) / power
            error = (rest - scale * centred).square().sum() / rest.square().sum().clamp_min(1e-30)
            if error.sqrt() < TOLERANCE and (scale.abs() > TOLERANCE).any():
                return Stream(before.module, before.side, scale)
    return None
