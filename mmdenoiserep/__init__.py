"""DenoiseRep for OpenMMLab: train a denoiser for each layer, fuse it, deploy the stock network."""

from .calibration import calibrate
from .calibration_job import calibrate_checkpoint
from .config import to_denoiserep_config, to_stock_config
from .conversion import denoisers, fuse_denoisers, insert_denoisers
from .denoiser import Denoiser
from .diffusion import NoiseSchedule
from .fusion import fuse_checkpoint
from .hooks import DenoiseRepHook, ResumableSeedHook
from .models import DenoiseRepBackbone, DenoiseRepMinus
from .version import __version__

__all__ = [
    'DenoiseRepBackbone',
    'DenoiseRepHook',
    'DenoiseRepMinus',
    'Denoiser',
    'NoiseSchedule',
    'ResumableSeedHook',
    '__version__',
    'calibrate',
    'calibrate_checkpoint',
    'denoisers',
    'fuse_checkpoint',
    'fuse_denoisers',
    'insert_denoisers',
    'to_denoiserep_config',
    'to_stock_config',
]
