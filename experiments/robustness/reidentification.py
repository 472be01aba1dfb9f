"""mAP of person re-identification, query by query."""

from typing import Dict

import numpy as np

from experiments import reid
from experiments.reid import check, collect, num_images

__all__ = ['METRIC', 'OF_IMAGES', 'check', 'collect', 'num_images', 'of_images', 'score']

METRIC = 'mAP'
#: What :func:`of_images` gives.
OF_IMAGES = 'AP of this query'


def score(arrays: Dict[str, np.ndarray], counts: np.ndarray) -> np.ndarray:
    """mAP in percent under every weighting of the images; see :func:`experiments.reid.scores`."""
    return reid.scores(arrays, counts)[METRIC]


def of_images(arrays: Dict[str, np.ndarray]) -> np.ndarray:
    """AP of each query in percent, (images,); NaN for the gallery."""
    return 100 * arrays['average_precision']
