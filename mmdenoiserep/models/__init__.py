from .backbone import DenoiseRepBackbone

__all__ = ['DenoiseRepBackbone']
