from .degrade import Degrade, noise_transform

__all__ = ['Degrade', 'noise_transform']
