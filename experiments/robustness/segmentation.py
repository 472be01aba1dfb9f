"""Mean IoU, image by image."""

from typing import Dict

import numpy as np
from mmengine.config import Config
from torch import nn

from experiments.study import segmentation

METRIC = 'mIoU'
#: What :func:`of_images` gives.
OF_IMAGES = 'mIoU of this image alone'
NAMES = ('intersect', 'union', 'boundary_intersect', 'boundary_union')


def collect(model: nn.Module, config: Config) -> Dict[str, np.ndarray]:
    """Statistics of each image of the test loader.

    Returns:
        dict[str, ndarray]: ``intersect`` and ``union``, pixels of each class, and the same of
        boundaries, (images, classes).
    """
    arrays = segmentation.collect(model, config)
    return {name: arrays[name] for name in NAMES}


def score(arrays: Dict[str, np.ndarray], counts: np.ndarray) -> np.ndarray:
    """The mIoU in percent under every weighting of the images; see :func:`.classification.score`.

    A class that is in no image of a sample, neither predicted nor true, is left out of its mean.
    """
    with np.errstate(invalid='ignore'):
        return 100 * np.nanmean((counts @ arrays['intersect']) / (counts @ arrays['union']), 1)


def boundary_iou(arrays: Dict[str, np.ndarray], counts: np.ndarray) -> np.ndarray:
    """The mean IoU of boundaries likewise."""
    parts = {name: arrays[f'boundary_{name}'] for name in ('intersect', 'union')}
    return score(parts, counts)


#: What else can be said of the same predictions.
FURTHER = {'B-IoU': boundary_iou}


def of_images(arrays: Dict[str, np.ndarray]) -> np.ndarray:
    """The mIoU of each image in percent, (images,)."""
    with np.errstate(invalid='ignore'):
        return 100 * np.nanmean(arrays['intersect'] / arrays['union'], 1)


def num_images(arrays: Dict[str, np.ndarray]) -> int:
    """The number of images."""
    return len(arrays['intersect'])
