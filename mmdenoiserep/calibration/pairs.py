"""One pass that solves all denoisers of a model from clean and degraded images."""

from typing import Any, Dict, Hashable, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..conversion import denoisers
from ..denoiser import Denoiser
from ..network.bypass import stock_weights
from ..network.parametrization import PREFIX
from ..network.probe import first_input
from ..network.streams import Stream
from ..network.tokens import draw, output_size, take_patches, take_tokens
from ..stock.model import run_backbone, tensors_in
from .lockstep import Job, current, run_in_lockstep
from .pair_moments import PairMoments

METHODS = ('pairs', 'transport')
#: Most tokens of a pass for each entry of a layer's input; LEAST_TOKENS where that is less. Further
#: ones do not change the error of the output, and cost the most where inputs are wide.
TOKENS_PER_ENTRY = 8
LEAST_TOKENS = 2**15
#: Where passes are several, layers are solved again when the images are so many times as many. The
#: error of the output hardly grows; with a factor of 2 it does, since sums are of older students.
GROWTH = 1.25
#: Directions of a weight below this share of its largest are not used to write by.
RANK = 1e-4
#: What two runs of a network on the same images may differ by, as a share of the largest feature.
APART = 1e-3


class Pair(NamedTuple):
    """A batch of preprocessed clean images (N, C, H, W), and their degraded versions."""

    clean: Tensor
    degraded: Tensor
    data_samples: Any = None


class _Batch(NamedTuple):
    """The jobs of a batch: the teacher's place, and the students' places and weights."""

    teacher: int
    students: Tuple[Tuple[int, float], ...]
    num_images: int


class PairPass:
    """Solves the denoisers of a model, layer after layer, in one pass over pairs.

    The teacher is the stock network on the clean image; the student, whose earlier layers are
    denoised already, sees the degraded and, with the share κ, the clean one.

    Args:
        model (nn.Module): With denoisers of measured noise.
        streams (dict[str, Stream]): Layers that write to a residual stream, by the names of
            :func:`mmdenoiserep.denoisers`: their target is the teacher's stream behind them. The
            others' is their own input.
        keep_clean (float): κ in [0, 1].
        ridge (float): Of layers whose target is their own input.
        stream_ridge (float): Of those that write to a stream.
        max_tokens (int, optional): Tokens per image and layer; None takes all.
        method (str): 'pairs', or 'transport', which needs none: clean and degraded may be
            different images then.
        seed (int): Draws tokens.
        names (Sequence[str], optional): Layers to solve; the others' denoisers stay as they are.
            Defaults to all.
        restore_variance (bool): Whether layers whose target is their own input get the variance
            back that least squares take. Defaults to False.
    """

    def __init__(
        self,
        model: nn.Module,
        streams: Dict[str, Stream],
        keep_clean: float,
        ridge: float,
        stream_ridge: float,
        max_tokens: Optional[int] = 256,
        method: str = 'pairs',
        seed: int = 0,
        names: Optional[Sequence[str]] = None,
        restore_variance: bool = False,
    ) -> None:
        self.model = model
        self.modules = denoisers(model)
        self.solved = set(self.modules if names is None else names)
        # With the reach of a channel a wider kernel's input has no position of the output's.
        self.streams = {
            name: stream
            for name, stream in streams.items()
            if method == 'pairs'
            and name in self.solved
            and self.modules[name].weight.shape[1] == self._stock_weight(name)[0].numel()
        }
        self.keep_clean = keep_clean
        self.ridge = ridge
        self.stream_ridge = stream_ridge
        self.max_tokens = max_tokens
        self.method = method
        self.restore_variance = restore_variance
        self.generator = torch.Generator().manual_seed(seed)
        self._seen: Dict[Tuple[Hashable, str], Tensor] = {}
        self._moments: Dict[str, PairMoments] = {}
        #: Images of all passes, and of those up to the last one that solved.
        self._images = self._solved_on = 0

    @torch.no_grad()
    def run(self, pairs: Sequence[Pair], more: bool = False) -> None:
        """Solve all denoisers, in place.

        Args:
            pairs (Sequence[Pair]): Their activations are in memory at once.
            more (bool): Whether further pairs will follow, in another call: what these say of a
                layer is then kept and added to what those say, and denoisers are solved again only
                when the images have grown by a quarter, and at the end. Defaults to False.

        Raises:
            ValueError: If features are not finite, images take different paths, or the network
                keeps features on itself.
        """
        self._keep = more or bool(self._moments)
        self._num_images = sum(len(pair.clean) for pair in pairs)
        self._images += self._num_images
        self._solves = not more or self._images >= GROWTH * self._solved_on
        if self._solves:
            self._solved_on = self._images
        jobs: List[Job] = []
        self._batches: List[_Batch] = []
        for pair in pairs:
            jobs.append(self._job(pair.clean, pair, bypass=True, first=not jobs))
            teacher, students = len(jobs) - 1, []
            sides = [(pair.degraded, 1 - self.keep_clean), (pair.clean, self.keep_clean)]
            if self.method == 'transport':  # in which clean images have no share
                sides = [(pair.degraded, 1.0)]
            for inputs, weight in sides:
                if weight > 0:
                    students.append((len(jobs), weight))
                    jobs.append(self._job(inputs, pair, bypass=False))
            self._batches.append(_Batch(teacher, tuple(students), len(pair.clean)))
        handles = self._watch_streams()
        try:
            outputs = run_in_lockstep(self.modules, jobs, self._at_layer)
            for moments in self._moments.values():
                moments.flush()  # or each layer would keep some tokens to the next pass
        finally:
            self._seen.clear()
            for handle in handles:
                handle.remove()
        if self._images == self._num_images:  # the first pass
            self._check_apart(pairs[0], outputs[0])

    def _job(self, inputs: Tensor, pair: Pair, bypass: bool, first: bool = False) -> Job:
        def run() -> Optional[List[Tensor]]:
            output = run_backbone(self.model, inputs, pair.data_samples)
            return tensors_in(output) if first else None

        return Job(run, bypass)

    def _check_apart(self, pair: Pair, found: List[Tensor]) -> None:
        """Refuse a network in which passes that ran side by side were not apart.

        Raises:
            ValueError: If what the teacher put out is not what it puts out alone.
        """
        with stock_weights(self.modules):
            alone = tensors_in(run_backbone(self.model, pair.clean, pair.data_samples))
        for a, b in zip(found, alone):
            if (a - b).abs().max() > APART * b.abs().max():
                raise ValueError(
                    f'{type(self.model).__name__} keeps features on itself while it runs, where '
                    "those of several images mix; train from the stock weights (init='zero')"
                )

    def _watch_streams(self) -> list:
        handles = []
        for name, stream in self.streams.items():

            def keep(_, args, kwargs, output=None, name=name, side=stream.side):
                # Some give the size of a map beside it.
                value = first_input(args, kwargs) if side == 'input' else output
                self._seen[current(), name] = tensors_in(value)[0]

            module = self.model.get_submodule(stream.module)
            if stream.side == 'input':
                handles.append(module.register_forward_pre_hook(keep, with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(keep, with_kwargs=True))
        return handles

    def _at_layer(self, name: str, inputs: List[Tensor], keys: List[Hashable]) -> None:
        """Add up what a layer sees, at which all jobs have paused, and solve it."""
        if name not in self.solved:
            return
        denoiser, stream = self.modules[name], self.streams.get(name)
        layer = self.model.get_submodule(name)
        groups, width, _ = denoiser.weight.shape
        flat = self._stock_weight(name).reshape(groups, -1, width)
        rows = width if stream is None else flat.shape[1]
        means = self.restore_variance and stream is None
        moments = self._moments.get(name) or PairMoments(groups, width, rows, flat.device, means)
        # Positions are those of the output where it matters, else of the input.
        of_output = denoiser.spatial or stream is not None
        conv = layer if of_output and isinstance(layer, nn.Conv2d) else None
        for batch in self._batches:
            x = inputs[batch.teacher]
            drawn = self._draw(denoiser, conv, x, batch.num_images)
            # Popped: the streams of all layers that were passed would be kept to the end.
            u = None if stream is None else self._seen.pop((keys[batch.teacher], name))
            for place, (student, weight) in enumerate(batch.students):
                x_student = inputs[student]
                if self.method == 'transport':  # of images of their own, and sizes
                    own = self._draw(denoiser, conv, x_student, batch.num_images)
                    tokens = _take(denoiser, conv, x, drawn)
                    moments.add_unpaired(tokens, _take(denoiser, conv, x_student, own))
                    continue
                # Each student has its part of the tokens: as many multiplications as for one.
                index = None if drawn is None else drawn[place :: len(batch.students)]
                z_student = _take(denoiser, conv, x_student, index)
                gain = _take(denoiser, conv, x, index) - z_student
                if stream is not None and u is not None:
                    u_student = self._seen.pop((keys[student], name))
                    missing = take_tokens(u, stream.channel_dim, index) - take_tokens(
                        u_student, stream.channel_dim, index
                    )
                    gain = _apply(flat, gain)
                    gain = gain * stream.scale.to(gain) + missing.float()
                moments.add(z_student, gain, weight)
        if self._keep:
            self._moments[name] = moments
        if not self._solves:
            return
        try:
            denoiser.weight.copy_(-self._change(moments.merged(), flat, stream))
        except (ValueError, torch.linalg.LinAlgError) as error:
            raise ValueError(f'layer {name!r}: {error}') from None

    def _change(self, moments: PairMoments, flat: Tensor, stream: Optional[Stream]) -> Tensor:
        if self.method == 'transport':
            return moments.transport(self.ridge)
        if stream is None:
            change = moments.regress(self.ridge)
            return moments.with_variance(change) if moments.means else change
        # What is to be written to the stream, S, as Γ W A = Γ W + S: exact where Γ W has full row
        # rank. Dividing by γ instead would let a channel that writes next to nothing rule all.
        scaled = stream.scale.to(flat.device).reshape(len(flat), -1, 1) * flat.double()
        return torch.linalg.pinv(scaled, rtol=RANK) @ moments.regress(self.stream_ridge)

    def _stock_weight(self, name: str) -> nn.Parameter:
        return self.model.get_submodule(name).get_parameter(f'{PREFIX}original')

    def _draw(
        self, denoiser: Denoiser, conv: Optional[nn.Conv2d], x: Tensor, num_images: int
    ) -> Optional[Tensor]:
        """Positions of an input (of the output it leads to, with ``conv``); None for all."""
        total = x.numel() // x.shape[denoiser.channel_dim]
        if conv is not None:
            total = output_size(x, conv).numel()
        width = denoiser.weight.shape[1]
        count = None
        if self.max_tokens is not None:
            most = max(LEAST_TOKENS, TOKENS_PER_ENTRY * width)
            share = -(-most * num_images // self._num_images)
            count = min(self.max_tokens * num_images, share)
        index = draw(total, count, self.generator)
        return None if index is None else index.to(x.device)


def _take(
    denoiser: Denoiser, conv: Optional[nn.Conv2d], x: Tensor, index: Optional[Tensor]
) -> Tensor:
    if conv is None:
        return take_tokens(x, denoiser.channel_dim, index).float()
    return take_patches(x, conv, index).float()


def _apply(flat: Tensor, tokens: Tensor) -> Tensor:
    """A grouped weight (G, rows, width) applied to tokens (K, G·width)."""
    groups, _, width = flat.shape
    grouped = tokens.reshape(-1, groups, width)
    return torch.einsum('kgw,grw->kgr', grouped, flat.to(tokens)).reshape(len(tokens), -1)
