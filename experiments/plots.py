"""Matplotlib, where pictures are written to files and nothing is shown."""

from types import ModuleType
from typing import List


def pyplot() -> ModuleType:
    """``matplotlib.pyplot``, imported where it is needed: it takes a second."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    return plt


def error_bar(mean: float, low: float, high: float) -> List[List[float]]:
    """What Matplotlib draws an interval from; of few samples it may not hold the estimate."""
    return [[max(0.0, mean - low)], [max(0.0, high - mean)]]
