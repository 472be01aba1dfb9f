from .backbone import DenoiseRepBackbone
from .minus import DenoiseRepMinus

__all__ = ['DenoiseRepBackbone', 'DenoiseRepMinus']
