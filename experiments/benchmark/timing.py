"""Timing of alternatives within one run, in alternating order, so that drift cancels."""

import statistics
import time
from typing import Any, Callable, Dict, List, NamedTuple

import torch


class Step(NamedTuple):
    """One thing to time: ``run`` is called with what ``prepare`` returned, which is not timed."""

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None


class Timing(NamedTuple):
    """Seconds: the median, and the interquartile range around it."""

    median: float
    spread: float
    samples: List[float]


def alternate(
    steps: Dict[str, Step],
    rounds: int = 10,
    warmup: int = 2,
    progress: Callable[[], None] = lambda: None,
) -> Dict[str, Timing]:
    """Time every step once a round, in an order that turns around from round to round.

    Args:
        steps (dict[str, Step]): What to time.
        rounds (int): Rounds that count. Defaults to 10.
        warmup (int): Rounds before them that do not. Defaults to 2.
        progress (Callable): Called after every step.

    Returns:
        dict[str, Timing]: By the names of ``steps``.
    """
    samples: Dict[str, List[float]] = {name: [] for name in steps}
    for i in range(warmup + rounds):
        for name in list(steps)[:: -1 if i % 2 else 1]:
            argument = steps[name].prepare()
            _synchronize()
            begin = time.perf_counter()
            steps[name].run(argument)
            _synchronize()
            if i >= warmup:
                samples[name].append(time.perf_counter() - begin)
            progress()
    return {name: _timing(values) for name, values in samples.items()}


def _timing(values: List[float]) -> Timing:
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return Timing(statistics.median(values), quartiles[2] - quartiles[0], values)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
