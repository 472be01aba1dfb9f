"""The best linear denoisers in closed form: one pass over unlabelled images, no training."""

from .calibrate import calibrate
from .closed_form import closed_form, solve
from .moments import SecondMoments

__all__ = ['SecondMoments', 'calibrate', 'closed_form', 'solve']
