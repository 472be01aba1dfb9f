from .denoiserep_hook import DenoiseRepHook
from .seed_hook import ResumableSeedHook

__all__ = ['DenoiseRepHook', 'ResumableSeedHook']
