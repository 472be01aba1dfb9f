"""From files to files: what the command-line tools call."""

from .calibrate import CalibrationReport, calibrate_checkpoint
from .fuse import FusionReport, fuse_checkpoint
from .measured import RobustReport, calibrate_measured_checkpoint
from .measured_config import to_measured_config
from .verify import explicit_denoising

__all__ = [
    'CalibrationReport',
    'FusionReport',
    'RobustReport',
    'calibrate_checkpoint',
    'calibrate_measured_checkpoint',
    'explicit_denoising',
    'fuse_checkpoint',
    'to_measured_config',
]
