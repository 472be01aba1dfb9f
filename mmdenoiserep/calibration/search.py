"""What is solved, and how, by the error of the output: a layer's own error does not tell."""

from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple

from torch import Tensor

from .judge import OutputError
from .pairs import Pair

#: Ridges of layers that are solved by their own input, and of those that write to a stream.
RIDGES = ((0.01, 1.0), (0.1, 3.0))
#: Strengths η of what was solved, A = I + η (A* − I); the first is preferred.
STRENGTHS = (1.0, 0.75, 0.5)
#: What fewer layers, or restored variance, must come to, as a share of the least error so far: all
#: layers gain more from the images that a trial leaves out.
WORTH = 0.98
#: Errors that are as good as level with the least: it is this share of them, or more.
LEVEL = 0.985
#: W_D by layer.
Solution = Dict[str, Tensor]


class Plan(NamedTuple):
    """What is solved, and how.

    Attributes:
        ridge (float): Of layers that are solved by their own input.
        stream_ridge (float): Of layers that write to a stream.
        layers (tuple[str]): Those that are solved.
        restored (bool): Whether the former get back the variance that least squares take.
    """

    ridge: float
    stream_ridge: float
    layers: Tuple[str, ...]
    restored: bool

    def __str__(self) -> str:
        restored = ', variance restored' if self.restored else ''
        ridges = f'ridge {self.ridge:g}, of streams {self.stream_ridge:g}'
        return f'{len(self.layers)} layers, {ridges}{restored}'


class Choice(NamedTuple):
    """A solution, and what it came to on pairs that were held back.

    Attributes:
        plan (Plan): What was solved.
        strength (float): η.
        error (OutputError): What it came to.
    """

    plan: Plan
    strength: float
    error: OutputError


def first_of_level(errors: Sequence[float]) -> int:
    """Which of some strengths to take, the preferred one first: of what comes out level, full
    strength wins more back."""
    least = min(errors)
    return next(i for i, error in enumerate(errors) if LEVEL * error <= least)


class Search:
    """Tries plans, judges them, and keeps the best.

    Args:
        solve (Callable): Solves what a plan says on some pairs, and returns it.
        judge (Callable): The error of a solution at a strength.
        keep_clean (float): κ, the share of the clean images in the error.
        strengths (Sequence[float]): Candidates for η, the preferred one first.
        progress (Callable): Called with a line for each plan that was tried.

    Attributes:
        tried (list[Choice]): Everything that was judged.
    """

    def __init__(
        self,
        solve: Callable[[Sequence[Pair], Plan], Solution],
        judge: Callable[[Solution, float], OutputError],
        keep_clean: float,
        strengths: Sequence[float],
        progress: Callable[[str], None],
    ) -> None:
        self.solve = solve
        self.judge = judge
        self.keep_clean = keep_clean
        self.strengths = strengths
        self.progress = progress
        self.tried: List[Choice] = []

    def choose(
        self,
        pairs: Sequence[Pair],
        plans: Sequence[Plan],
        others: Sequence[Tuple[Tuple[str, ...], bool]],
    ) -> Plan:
        """The best plan: of some with all layers first, then which layers of it and whether their
        variance is restored.

        Args:
            pairs (Sequence[Pair]): What is solved on.
            plans (Sequence[Plan]): They differ in their ridges.
            others (Sequence[tuple[tuple[str], bool]]): Layers, and whether they are restored; the
                fewer first. All layers are not tried where fewer are better.
        """
        best = min((self._trial(pairs, plan) for plan in plans), key=self._total)
        every = best.plan.layers
        for layers, restored in others:
            if layers == every and best.plan.layers != every:
                break
            other = self._trial(pairs, best.plan._replace(layers=layers, restored=restored))
            # Amplitude can be had for noise: what is restored must not turn features away, too.
            turned = restored and other.error.turned > best.error.turned
            if self._total(other) < WORTH * self._total(best) and not turned:
                best = other
        return best.plan

    def best_strength(self, plan: Plan, solved: Solution, strengths: Sequence[float]) -> Choice:
        """A solution at its best strength; of those about level the first."""
        choices = [Choice(plan, strength, self.judge(solved, strength)) for strength in strengths]
        self.tried.extend(choices)
        best = choices[first_of_level([self._total(choice) for choice in choices])]
        self.progress(f'{plan}, strength {best.strength:g}: {best.error}')
        return best

    def _trial(self, pairs: Sequence[Pair], plan: Plan) -> Choice:
        ends = list(dict.fromkeys((self.strengths[0], self.strengths[-1])))
        return self.best_strength(plan, self.solve(pairs, plan), ends)

    def _total(self, choice: Choice) -> float:
        return choice.error.total(self.keep_clean)
