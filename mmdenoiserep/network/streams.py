"""Which layers write to a residual stream and where it can be seen before; which are linear.

A layer with output y writes to a stream u if some later feature is u + γ y + β, with γ and β
constant for each channel (batch norm in evaluation, layer scale, or 1 and 0). There is no
nonlinearity behind a layer if that holds, or if another layer's input or the network's output is
γ y + β. Found by looking, not by names: one forward pass on a random image, in which every input
and output of a module is kept at some positions.
"""

from collections import Counter
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor, nn

from .layers import channel_dim_of
from .probe import first_input, scratch_copy, with_example
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
        channel_dim (int): Dimension of the channels in u, -1 or -3: it may be laid out in another
            way than the layer's output (ConvNeXt).
    """

    module: str
    side: str
    scale: Tensor
    channel_dim: int


class _Seen(NamedTuple):
    """A feature at some positions: whole ones of a large image would take gigabytes.

    Attributes:
        module (str): That sees it.
        side (str): As its 'input' or its 'output'.
        shape (torch.Size): Of the whole feature.
        tokens (dict[int, Tensor]): By each dimension that its channels may be in, (K, C), float64.
    """

    module: str
    side: str
    shape: torch.Size
    tokens: Dict[int, Tensor]


class Behind(NamedTuple):
    """What is behind layers.

    Attributes:
        streams (dict[str, Stream]): Of the layers that write to one.
        linear (set[str]): The layers behind which there is no nonlinearity, these among them.
    """

    streams: Dict[str, Stream]
    linear: Set[str]


@torch.no_grad()
def look_behind(model: nn.Module, names: Sequence[str], example: Optional[Tensor] = None) -> Behind:
    """Which layers write to a residual stream, and which have no nonlinearity behind them.

    Args:
        model (nn.Module): The network, called as ``model(example)``. Not changed.
        names (Sequence[str]): Layers to look at.
        example (Tensor, optional): An input that it accepts. By default images of several sizes are
            tried.
    """
    seen = _look(model, example)
    outputs = {n: y for n in names if (y := _output_of(n, model, seen)) is not None}
    # What a module sees in several calls cannot be told from its name (DDRNet's ReLU).
    times = Counter((s.module, s.side) for s in seen)
    repeated = {place for place, count in times.items() if count > 1}
    found = {name: _stream_of(y, seen, repeated) for name, y in outputs.items()}
    streams = {name: stream for name, stream in found.items() if stream is not None}
    linear = {n for n, y in outputs.items() if n in streams or _feeds(y, names, seen)}
    return Behind(streams, linear)


def _look(model: nn.Module, example: Optional[Tensor]) -> List[_Seen]:
    model = scratch_copy(model)
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device

    def run(x: Tensor) -> List[_Seen]:
        seen: List[_Seen] = []
        handles = _watch(model, seen)
        try:
            # Two images: more positions than a channel has constants, in small maps, too.
            model(torch.randn(2, *x.shape[1:], generator=generator).to(device))
        finally:
            for handle in handles:
                handle.remove()
        return seen

    return run(example) if example is not None else with_example(model, run)


def _watch(model: nn.Module, seen: List[_Seen]) -> list:
    handles = []
    for name, module in model.named_modules():

        def before(_, args, kwargs, name=name):
            x = first_input(args, kwargs)
            if isinstance(x, Tensor):
                seen.append(_Seen(name, 'input', x.shape, _tokens(x)))

        def after(_, args, output, name=name):
            features = output if isinstance(output, (tuple, list)) else [output]
            tensors = [f for f in features if isinstance(f, Tensor)]
            seen.extend(_Seen(name, 'output', f.shape, _tokens(f)) for f in tensors)

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))
    return handles


def _tokens(feature: Tensor) -> Dict[int, Tensor]:
    """The same positions of all features that have as many."""
    found = {}
    for dim in (-1, -3):
        if feature.ndim + dim > 0 and feature.numel():
            generator = torch.Generator().manual_seed(0)
            index = draw(feature.numel() // feature.shape[dim], POSITIONS, generator)
            index = None if index is None else index.to(feature.device)
            tokens = take_tokens(feature, dim, index)
            found[dim] = tokens.to(torch.float64, copy=True)  # others work in place
    return found


class _Output(NamedTuple):
    """What a layer wrote, at some positions.

    Attributes:
        begin (int): Index among the features of the layer's input.
        end (int): Of its output.
        shape (torch.Size): Of the output, (N, ..., C) or (N, C, ...).
        centred (Tensor): The output less its mean, (K, C), float64.
    """

    begin: int
    end: int
    shape: torch.Size
    centred: Tensor

    def views(self, feature: _Seen) -> Iterator[Tuple[int, Tensor]]:
        """The tokens of a feature in each layout in which it may be a sum with the output, with the
        dimension of its channels."""
        if feature.shape.numel() == self.shape.numel() and feature.shape[:1] == self.shape[:1]:
            for dim, tokens in feature.tokens.items():
                if tokens.shape[1] == self.centred.shape[1]:
                    yield dim, tokens

    def scale_in(self, feature: Tensor) -> Optional[Tensor]:
        """γ (C,) if a feature (K, C) is γ y + β, else None."""
        scale, error, power = self._fit(feature)
        found = (error.sum() / power.sum().clamp_min(1e-30)).sqrt() < TOLERANCE
        written = scale[self._varies].abs() > TOLERANCE
        return scale if found and written.any() else None

    def is_scaled_in(self, feature: Tensor) -> bool:
        """Whether a feature (K, C) is γ y + β in each channel: a ReLU leaves some as they are."""
        _, error, power = self._fit(feature)
        return bool((error <= TOLERANCE**2 * power).all() and (power > 0)[self._varies].all())

    @property
    def _varies(self) -> Tensor:
        """The channels that are not constant, (C,)."""
        return self.centred.any(0)

    def _fit(self, feature: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """γ, what γ y + β leaves of a feature and its spread, as sums of squares: each (C,)."""
        rest = feature - feature.mean(0)
        power = self.centred.square().sum(0)
        # A channel that is constant tells nothing of γ.
        scale = torch.where(power > 0, (rest * self.centred).sum(0) / power, 1.0)
        return scale, (rest - scale * self.centred).square().sum(0), rest.square().sum(0)


def _output_of(name: str, model: nn.Module, seen: List[_Seen]) -> Optional[_Output]:
    channel_dim = channel_dim_of(model.get_submodule(name))
    own = [i for i, s in enumerate(seen) if s.module == name and s.side == 'output']
    if channel_dim is None or len(own) != 1:  # never called, or several times
        return None
    begin = next(i for i, s in enumerate(seen) if s.module == name and s.side == 'input')
    y = seen[own[0]]
    tokens = y.tokens.get(channel_dim)
    if tokens is None:
        return None
    centred = tokens - tokens.mean(0)
    if len(centred) < 3 or not centred.any():
        return None
    return _Output(begin, own[0], y.shape, centred)


def _stream_of(y: _Output, seen: List[_Seen], repeated: Set[Tuple[str, str]]) -> Optional[Stream]:
    earlier = reversed(seen[max(0, y.begin - BACK) : y.begin])
    once = (s for s in earlier if (s.module, s.side) not in repeated)
    streams = [(s, dim, u) for s in once for dim, u in y.views(s)]
    streams = [(s, dim, u) for s, dim, u in streams if u.var(0).any()]  # a constant is no stream
    for after in seen[y.end + 1 : y.end + 1 + AHEAD]:
        for _, total in y.views(after):
            for before, dim, u in streams:
                scale = y.scale_in(total - u)
                if scale is not None:
                    return Stream(before.module, before.side, scale.cpu(), dim)
    return None


def _feeds(y: _Output, names: Sequence[str], seen: List[_Seen]) -> bool:
    """Whether another layer's input, or the network's output, is a layer's, up to constants of each
    channel."""
    later = seen[y.end + 1 : y.end + 1 + AHEAD]
    inputs = [s for s in later if (s.module, s.side) == ('', 'output')]
    inputs += [s for s in later if s.side == 'input' and s.module in names]
    return any(y.is_scaled_in(tokens) for feature in inputs for _, tokens in y.views(feature))
