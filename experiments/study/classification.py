"""Accuracy, calibration and nearest neighbours of a classifier, image by image."""

from typing import Dict

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn
from torch.nn import functional as F

from mmdenoiserep.stock.model import run_backbone

from .reliability import calibration_error

#: Whether more is better.
METRICS = {'accuracy': True, 'cross-entropy': False, 'ECE': False, 'kNN': True}
NEIGHBOURS = 10


@torch.no_grad()
def collect(model: nn.Module, config: Config) -> Dict[str, np.ndarray]:
    """Statistics of each image of the test loader.

    Returns:
        dict[str, ndarray]: ``correct``, ``cross_entropy``, ``confidence`` and ``knn``, whether the
        nearest training images by the backbone's features vote for the label; each (images,).
    """
    probabilities, labels, features = _run(model, config.test_dataloader)
    train = dict(config.test_dataloader, dataset=_reference(config))
    _, train_labels, train_features = _run(model, train)
    confidence, predicted = probabilities.max(1)
    own = probabilities.gather(1, labels[:, None])[:, 0]
    similar = F.normalize(features) @ F.normalize(train_features).T
    nearest = train_labels[similar.topk(min(NEIGHBOURS, len(train_labels)), dim=1).indices]
    return dict(
        correct=(predicted == labels).numpy(),
        cross_entropy=-own.clamp_min(1e-12).log().numpy(),
        confidence=confidence.numpy(),
        knn=(nearest.mode(1).values == labels).numpy(),
    )


def scores(arrays: Dict[str, np.ndarray], counts: np.ndarray) -> Dict[str, np.ndarray]:
    """The metrics under every weighting of the images, in percent but for the cross-entropy.

    Args:
        arrays (dict[str, ndarray]): Of :func:`collect`.
        counts (ndarray): (replicates, images), of :func:`.bootstrap.resamples`.

    Returns:
        dict[str, ndarray]: (replicates,) for each of ``METRICS``.
    """
    total = counts.sum(1)
    correct = arrays['correct'].astype(float)
    return {
        'accuracy': 100 * counts @ correct / total,
        'cross-entropy': counts @ arrays['cross_entropy'] / total,
        'ECE': 100 * calibration_error(arrays['confidence'], correct, counts),
        'kNN': 100 * counts @ arrays['knn'].astype(float) / total,
    }


def num_images(arrays: Dict[str, np.ndarray]) -> int:
    """The number of images."""
    return len(arrays['correct'])


def _run(model: nn.Module, loader: dict):
    parts = ([], [], [])
    for batch in Runner.build_dataloader(loader):
        data = model.data_preprocessor(batch, False)
        features = run_backbone(model, data['inputs'], data.get('data_samples'))
        features = features[-1] if isinstance(features, (tuple, list)) else features
        features = features.mean((-2, -1)) if features.ndim == 4 else features
        results = model(**data, mode='predict')
        parts[0].append(torch.stack([r.pred_score for r in results]).cpu())
        parts[1].append(torch.cat([r.gt_label for r in results]).cpu())
        parts[2].append(features.float().cpu())
    return tuple(torch.cat(part) for part in parts)


def _reference(config: Config) -> dict:
    """The training set without augmentation."""
    dataset = config.train_dataloader.dataset
    while 'datasets' in dataset or 'dataset' in dataset:
        dataset = dataset['datasets'][0] if 'datasets' in dataset else dataset['dataset']
    return dict(dataset, pipeline=config.test_dataloader.dataset.pipeline)
