"""DenoiseRep for OpenMMLab: train a denoiser for each layer, fuse it, deploy the stock network.

Read `diffusion.py`, `denoiser.py` and `conversion.py` for the method.
"""

from .apis import calibrate_checkpoint, calibrate_measured_checkpoint, fuse_checkpoint
from .calibration import calibrate
from .conversion import denoisers, fuse_denoisers, insert_denoisers
from .denoiser import Denoiser
from .diffusion import Cascade, NoiseSchedule
from .hooks import DenoiseRepHook, ResumableSeedHook
from .models import DenoiseRepBackbone, DenoiseRepMinus
from .network.layers import register_layer
from .stock.config import to_denoiserep_config, to_stock_config
from .stock.packages import mend_package_names
from .version import __version__

mend_package_names()

__all__ = [
    'Cascade',
    'DenoiseRepBackbone',
    'DenoiseRepHook',
    'DenoiseRepMinus',
    'Denoiser',
    'NoiseSchedule',
    'ResumableSeedHook',
    '__version__',
    'calibrate',
    'calibrate_checkpoint',
    'calibrate_measured_checkpoint',
    'denoisers',
    'fuse_checkpoint',
    'fuse_denoisers',
    'insert_denoisers',
    'register_layer',
    'to_denoiserep_config',
    'to_stock_config',
]
