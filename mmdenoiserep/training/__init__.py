"""Training of denoisers, as functions of a model: no Runner is needed."""

from .matched import matched_losses
from .noise_loss import observe_inputs, record_noise_losses
from .optimizer import fuse_optimizer
from .step import denoising_losses, denoising_parameters, freeze_base, trained_modules

__all__ = [
    'denoising_losses',
    'denoising_parameters',
    'freeze_base',
    'fuse_optimizer',
    'matched_losses',
    'observe_inputs',
    'record_noise_losses',
    'trained_modules',
]
