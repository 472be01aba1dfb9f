"""From files to files: what the command-line tools call."""

from .calibrate import CalibrationReport, calibrate_checkpoint
from .fuse import FusionReport, fuse_checkpoint
from .verify import explicit_denoising

__all__ = [
    'CalibrationReport',
    'FusionReport',
    'calibrate_checkpoint',
    'explicit_denoising',
    'fuse_checkpoint',
]
