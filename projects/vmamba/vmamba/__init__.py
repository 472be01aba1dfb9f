"""VMamba for MMPretrain, MMDetection and MMSegmentation, on PyTorch and MMEngine alone."""

from .scan import linear_scan
from .selective_scan import selective_scan
from .vmamba import VMamba

__all__ = ['VMamba', 'linear_scan', 'selective_scan']
