"""COCO's average precision of boxes, image by image."""

from typing import Dict

import numpy as np
from mmengine.config import Config
from torch import nn

from experiments import coco
from experiments.coco import check, num_images, score

__all__ = ['METRIC', 'OF_IMAGES', 'check', 'collect', 'num_images', 'of_images', 'score']

METRIC = 'box AP'
#: What :func:`of_images` gives.
OF_IMAGES = 'AP of this image alone'


def collect(model: nn.Module, config: Config) -> Dict[str, np.ndarray]:
    """What each image of the test loader contributes: of :func:`experiments.coco.collect`."""
    return coco.collect(model, config)['all']


def of_images(arrays: Dict[str, np.ndarray]) -> np.ndarray:
    """AP of each image by itself in percent, (images,); NaN where it has no object."""
    out = np.full(num_images(arrays), np.nan)
    for i in range(len(out)):
        there = np.flatnonzero(arrays['objects'][:, i])
        mine = (arrays['image'] == i) & np.isin(arrays['category'], there)
        if len(there):
            alone = dict(
                objects=arrays['objects'][there, i : i + 1],
                category=np.searchsorted(there, arrays['category'][mine]),
                image=np.zeros(mine.sum(), int),
                score=arrays['score'][mine],
                hit=arrays['hit'][:, mine],
                ignored=arrays['ignored'][:, mine],
            )
            out[i] = score(alone, np.ones((1, 1), np.int64))[0]
    return out
