"""The best linear denoisers in closed form: one pass over unlabelled images, no training."""

from .calibrate import calibrate
from .closed_form import closed_form, solve
from .measured import MeasuredReport, NothingBetter, calibrate_measured
from .moments import SecondMoments
from .pairs import METHODS, Pair, PairPass

__all__ = [
    'METHODS',
    'MeasuredReport',
    'NothingBetter',
    'Pair',
    'PairPass',
    'SecondMoments',
    'calibrate',
    'calibrate_measured',
    'closed_form',
    'solve',
]
