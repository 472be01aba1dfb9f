from .boundary_iou import BoundaryIoU, boundary_areas

__all__ = ['BoundaryIoU', 'boundary_areas']
