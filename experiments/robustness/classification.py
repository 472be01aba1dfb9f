"""Top-1 accuracy, image by image."""

from typing import Dict

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

METRIC = 'top-1 accuracy'
#: What :func:`of_images` gives.
OF_IMAGES = "the right class's probability in %"


@torch.no_grad()
def collect(model: nn.Module, config: Config) -> Dict[str, np.ndarray]:
    """Statistics of each image of the test loader.

    Returns:
        dict[str, ndarray]: ``correct``, bool, and ``own``, the probability of the right class,
        each (images,).

    Raises:
        ValueError: If images have several labels or none.
    """
    correct, own = [], []
    for batch in Runner.build_dataloader(config.test_dataloader):
        for result in model.test_step(batch):
            if result.get('gt_label') is None or result.gt_label.numel() != 1:
                raise ValueError('top-1 accuracy is of images with one label each')
            label = int(result.gt_label)
            own.append(float(result.pred_score[label]))
            correct.append(int(result.pred_score.argmax()) == label)
    return dict(correct=np.array(correct), own=np.array(own))


def score(arrays: Dict[str, np.ndarray], counts: np.ndarray) -> np.ndarray:
    """The accuracy in percent under every weighting of the images.

    Args:
        arrays (dict[str, ndarray]): Of :func:`collect`.
        counts (ndarray): (replicates, images), of :func:`experiments.study.bootstrap.resamples`.

    Returns:
        ndarray: (replicates,).
    """
    return 100 * (counts @ arrays['correct'].astype(float)) / counts.sum(1)


def of_images(arrays: Dict[str, np.ndarray]) -> np.ndarray:
    """How good each image's prediction is: the right class's probability in percent, (images,)."""
    return 100 * arrays['own']


def num_images(arrays: Dict[str, np.ndarray]) -> int:
    """The number of images."""
    return len(arrays['correct'])
