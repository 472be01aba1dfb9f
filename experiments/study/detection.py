"""COCO's average precision of a detector, image by image."""

from typing import Dict

import numpy as np
from mmengine.config import Config
from torch import nn

from experiments import coco
from experiments.coco import check

__all__ = ['METRICS', 'check', 'collect', 'num_images', 'scores']

#: Whether more is better. By COCO's summary: area range and IoU threshold.
METRICS = {'AP': True, 'AP50': True, 'APs': True, 'APm': True, 'APl': True}


def collect(model: nn.Module, config: Config) -> Dict[str, np.ndarray]:
    """What each image of the test loader contributes to COCO's precisions.

    Returns:
        dict[str, ndarray]: Of :func:`experiments.coco.collect`, for all area ranges, by
        'area/name'.
    """
    areas = coco.collect(model, config, list(coco.AREAS))
    return {
        f'{area}/{name}': array for area, arrays in areas.items() for name, array in arrays.items()
    }


def scores(arrays: Dict[str, np.ndarray], counts: np.ndarray) -> Dict[str, np.ndarray]:
    """The metrics under every weighting of the images; see :func:`.classification.scores`.

    NaN where no object is of a size.
    """
    every = _of_area(arrays, 'all')
    lenient = dict(every, hit=every['hit'][:1], ignored=every['ignored'][:1])  # IoU 0.5
    sizes = {f'AP{area[0]}': _of_area(arrays, area) for area in ('small', 'medium', 'large')}
    parts = dict(AP=every, AP50=lenient, **sizes)
    return {name: coco.score(part, counts) for name, part in parts.items()}


def num_images(arrays: Dict[str, np.ndarray]) -> int:
    """The number of images."""
    return coco.num_images(_of_area(arrays, 'all'))


def _of_area(arrays: Dict[str, np.ndarray], area: str) -> Dict[str, np.ndarray]:
    return {
        name.split('/')[1]: array for name, array in arrays.items() if name.startswith(f'{area}/')
    }
