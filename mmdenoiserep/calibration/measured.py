"""Calibration on measured noise: solve, judge at the output, keep what is better than stock."""

from functools import wraps
from typing import (
    Any,
    Callable,
    Dict,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
    cast,
)

import torch
from mmengine.dist import all_reduce, broadcast_object_list
from torch import Tensor, nn

from ..conversion import denoisers
from ..denoiser import Denoiser
from ..network.streams import Stream, look_behind
from ..stock.model import backbone_inputs, backbone_of
from .judge import OutputError, check_keep_clean, output_error, stock_outputs
from .memory import images_at_once
from .pairs import METHODS, Pair, PairPass
from .search import RIDGES, STRENGTHS, Choice, Plan, Search, Solution
from .which import denoisers_of

#: Lines of the table of groups, at most.
GROUPS = 4


class NothingBetter(ValueError):
    """Nothing that was tried is better than the stock network.

    Attributes:
        solution (dict[str, Tensor]): W_D by layer of what was tried last, on all images.
    """

    def __init__(self, message: str, solution: Solution) -> None:
        super().__init__(message)
        self.solution = solution


class MeasuredReport(NamedTuple):
    """What :func:`calibrate_measured` did.

    Attributes:
        stock (OutputError): Of the stock network.
        chosen (Choice): What the model has now.
        tried (list[Choice]): Everything that was tried.
        groups (list[tuple[str, int, OutputError]]): By group of layers, in the order of the data:
            its name, its denoisers, and the error with it and all groups before.
    """

    stock: OutputError
    chosen: Choice
    tried: List[Choice]
    groups: List[Tuple[str, int, OutputError]]

    def __str__(self) -> str:
        rows = [('stock', 0, self.stock), *self.groups]
        width = max(len(name) for name, _, _ in rows)
        lines = [
            'error of the output, held-back images (0: the stock features of the clean image)',
            f'{"layers up to":<{width}}  denoisers  degraded  clean',
        ]
        lines += [f'{n:<{width}}  {k:>9}  {e.degraded:>8.3f}  {e.clean:>5.3f}' for n, k, e in rows]
        plan = self.chosen.plan
        count, most = len(plan.layers), max(len(choice.plan.layers) for choice in self.tried)
        if count < most:
            lines.append(
                f'{count} of {most} layers: the first, and those with no nonlinearity behind them'
            )
        if plan.restored:
            lines.append('variance restored in layers that are solved by their own input')
        if self.chosen.strength != 1:
            lines.append(f'strength {self.chosen.strength} of what was solved')
        return '\n'.join(lines)


Calibration = TypeVar('Calibration', bound=Callable[..., MeasuredReport])


def _all_or_nothing(calibration: Calibration) -> Calibration:
    """Denoisers are zero where it begins, and where it fails."""

    @wraps(calibration)
    def run(model: nn.Module, *args: Any, **kwargs: Any) -> MeasuredReport:
        _reset(denoisers_of(model, 'measured'))
        try:
            return calibration(model, *args, **kwargs)
        except BaseException:
            _reset(denoisers(model))
            raise

    return cast(Calibration, run)


@torch.no_grad()
@_all_or_nothing
def calibrate_measured(
    model: nn.Module,
    pairs: Sequence[Pair],
    held_back: Sequence[Pair],
    keep_clean: float = 0.5,
    ridges: Sequence[Tuple[float, float]] = RIDGES,
    strengths: Sequence[float] = STRENGTHS,
    max_tokens: Optional[int] = 256,
    images_per_pass: Optional[int] = None,
    method: str = 'pairs',
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> MeasuredReport:
    """Set the denoisers of a model so that it sees degraded images as the stock network sees clean.

    Ridge, layers (all, or the first and those behind which there is no nonlinearity), whether their
    variance is restored, and strength are chosen by the error of the backbone's output on pairs
    that were held back: a layer's own error does not tell what a network makes of it. No label is
    used.

    Args:
        model (nn.Module): With denoisers of measured noise. They are set in place, and zero if
            anything fails.
        pairs (Sequence[Pair]): What denoisers are solved on.
        held_back (Sequence[Pair]): What they are judged on.
        keep_clean (float): κ in [0, 1), the share of the clean images in both. Defaults to 0.5.
        ridges (Sequence[tuple[float, float]]): Candidates for the ridges of
            :class:`.pairs.PairPass`.
        strengths (Sequence[float]): Candidates for η, the preferred one first.
        max_tokens (int, optional): Tokens per image and layer. Defaults to 256.
        images_per_pass (int, optional): Images whose activations are in memory at once. Defaults to
            as many as fit into 4 GiB, with the sums that are kept where they are not all.
        method (str): 'pairs' or 'transport'.
        seed (int): Draws tokens.
        progress (Callable): Called with a line for each thing that is done.

    Returns:
        MeasuredReport: What was tried and chosen.

    Raises:
        NothingBetter: If nothing that was tried is better than the stock network.
        ValueError: If there are no denoisers, or any of Gaussian noise, too few images, or features
            that are not finite.
    """
    modules = denoisers(model)  # of measured noise: checked before they are reset
    check_measured(keep_clean, max_tokens, method)
    if not pairs or not held_back:
        raise ValueError('there are too few images: some are solved on and some held back')
    model.eval()
    example = backbone_inputs(model, held_back[0].clean[:1])
    streams, linear = _agreed(layers_behind(model, modules, example))
    targets = stock_outputs(model, modules, held_back)

    def measure() -> OutputError:
        return output_error(model, modules, held_back, targets)

    stock = measure()
    progress(f'stock: {stock}; {len(streams)} of {len(modules)} layers write to a stream')
    count = sum(len(pair.clean) for pair in pairs)
    if images_per_pass is None:
        largest = max(pairs, key=lambda pair: pair.clean[0].numel())
        fit = torch.tensor(images_at_once(model, largest, count))
        all_reduce(fit, 'min')  # images of other processes may be larger
        images_per_pass = int(fit)
    if images_per_pass < count:
        progress(f'{images_per_pass} of {count} images in a pass')

    def solve(some: Sequence[Pair], plan: Plan) -> Solution:
        _reset(modules)
        solver = PairPass(
            model,
            streams,
            keep_clean,
            plan.ridge,
            plan.stream_ridge,
            max_tokens,
            method,
            seed,
            names=plan.layers,
            restore_variance=plan.restored,
        )
        run_passes(solver, some, images_per_pass)
        return {name: modules[name].weight.clone() for name in plan.layers}

    def judge(solved: Solution, strength: float) -> OutputError:
        _set(modules, solved, strength)
        return measure()

    every = tuple(modules)
    others = [(linear, False)] if linear else []
    if method == 'pairs':  # nothing is shrunk by writers to a stream, and by a stem hardly anything
        others += [(names, True) for names in (linear, every) if set(names[1:]) - set(streams)]
    search = Search(solve, judge, keep_clean, strengths, progress)
    # What is solved, and how, is chosen on some of the images.
    few = pairs[: max(1, len(pairs) // 4)]
    plan = search.choose(few, [Plan(*ridge, every, False) for ridge in ridges], others)
    solved = solve(pairs, plan)
    chosen = search.best_strength(plan, solved, strengths)
    if not chosen.error.total(keep_clean) < stock.total(keep_clean):
        raise NothingBetter(
            f'nothing that was tried is better than the stock network on held-back images: '
            f'{stock} without, {chosen.error} with denoisers',
            {name: chosen.strength * weight for name, weight in solved.items()},
        )
    _reset(modules)
    groups = []
    parts = _groups(chosen.plan.layers)
    for i, part in enumerate(parts):
        _set(modules, {name: solved[name] for name in part}, chosen.strength)
        last = i + 1 == len(parts)  # what was chosen
        error = chosen.error if last else measure()
        groups.append((part[-1], len(part), error))
    return MeasuredReport(stock, chosen, search.tried, groups)


def check_measured(keep_clean: float, max_tokens: Optional[int], method: str) -> None:
    """Refuse options of :func:`calibrate_measured`, before images are loaded for it.

    Raises:
        ValueError: If a number is out of range, or there is no such method.
    """
    check_keep_clean(keep_clean)
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f'max_tokens must be at least 1, got {max_tokens}')
    if method not in METHODS:
        raise ValueError(f'method must be one of {METHODS}, got {method!r}')


def run_passes(solver: PairPass, pairs: Sequence[Pair], images_per_pass: int) -> None:
    """Solve on all pairs, at most so many images (but a batch at least) in a pass."""
    count = max(1, images_per_pass // max(len(pair.clean) for pair in pairs))
    parts = [pairs[i : i + count] for i in range(0, len(pairs), count)]
    for i, part in enumerate(parts):
        solver.run(part, more=i + 1 < len(parts))


def layers_behind(
    model: nn.Module, modules: Dict[str, Denoiser], example: Tensor
) -> Tuple[Dict[str, Stream], Tuple[str, ...]]:
    """The streams that layers write to, and the layers that may be enough; () if all or none may.

    Those are the first and the ones behind which there is no nonlinearity: what is shrunk is wrong
    for that. By the names that layers have in the model.
    """
    backbone = backbone_of(model)
    prefix = next(f'{n}.' if n else '' for n, m in model.named_modules() if m is backbone)
    names = [name[len(prefix) :] for name in modules if name.startswith(prefix)]
    found = look_behind(backbone, names, example)
    streams = {
        prefix + name: stream._replace(module=(prefix + stream.module).rstrip('.'))
        for name, stream in found.streams.items()
    }
    first, *others = modules
    linear = (first, *(name for name in others if name[len(prefix) :] in found.linear))
    return streams, linear if 1 < len(linear) < len(modules) else ()


def _agreed(value: Any) -> Any:
    """What the first process found: others look at features of other sizes."""
    box = [value]
    broadcast_object_list(box)
    return box[0]


def _reset(modules: Dict[str, Denoiser]) -> None:
    for denoiser in modules.values():
        denoiser.weight.zero_()


def _set(modules: Dict[str, Denoiser], solved: Solution, strength: float) -> None:
    for name, weight in solved.items():
        modules[name].weight.copy_(strength * weight)


def _groups(names: Sequence[str]) -> List[Sequence[str]]:
    """Consecutive layers of about equal number."""
    size = -(-len(names) // GROUPS)
    return [names[i : i + size] for i in range(0, len(names), size)]
