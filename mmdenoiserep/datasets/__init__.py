from .image_folder import ImageFolder
from .pairs import PairDataset, collate_pairs

__all__ = ['ImageFolder', 'PairDataset', 'collate_pairs']
