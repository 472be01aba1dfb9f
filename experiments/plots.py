"""Matplotlib, where pictures are written to files and nothing is shown."""

from types import ModuleType


def pyplot() -> ModuleType:
    """``matplotlib.pyplot``, imported where it is needed: it takes a second."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    return plt
