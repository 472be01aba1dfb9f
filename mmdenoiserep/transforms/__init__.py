"""Transforms of images, for the pipelines of any package of OpenMMLab."""

from importlib.util import find_spec

from .degrade import Degrade, each_noise, noise_transform
from .one_noise import OneNoise

__all__ = ['Degrade', 'OneNoise', 'each_noise', 'noise_transform']

# torch and MMEngine suffice for the rest.
if find_spec('mmcv') is not None:
    from .load_degraded import LoadDegraded

    __all__ += ['LoadDegraded']
