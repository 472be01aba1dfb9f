"""Registered metrics. Each needs the package that it extends, where that is installed."""

from importlib.util import find_spec

__all__ = []

# Detection must not need MMSegmentation.
if find_spec('mmseg') is not None:
    from .boundary_iou import BoundaryIoU, boundary_areas

    __all__ += ['BoundaryIoU', 'boundary_areas']
