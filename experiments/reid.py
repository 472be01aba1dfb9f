"""Average precision and rank of person re-identification, query by query."""

from typing import Dict

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import nn

from .tasks import evaluators_of

RANKS = (1, 5, 10)


def check(config: Config) -> None:
    """Refuse a config with several metrics of re-identification, of which one is measured.

    Raises:
        ValueError: If there are.
    """
    types = [str(evaluator['type']).split('.')[-1] for evaluator in evaluators_of(config)]
    if types.count('ReIDMetric') != 1:
        raise ValueError(
            f'{config.filename}: one ReIDMetric is measured, and test_evaluator has '
            f'{types.count("ReIDMetric")}; leave the others out'
        )


@torch.no_grad()
def collect(model: nn.Module, config: Config) -> Dict[str, np.ndarray]:
    """Statistics of each image of the test loader, which holds queries and gallery.

    Only queries with a match have some; the gallery is the same whatever they are weighted with.

    Returns:
        dict[str, ndarray]: ``average_precision``, in [0, 1], NaN for all other images, and
        ``first_match``, the rank from 1 or 0 for all other images; each (images,).
    """
    evaluator = Evaluator(config.test_evaluator)
    is_query = []
    for batch in Runner.build_dataloader(config.test_dataloader):
        results = model.test_step(batch)
        is_query += [bool(result.is_query) for result in results]
        evaluator.process(data_samples=results, data_batch=batch)
    evaluator.evaluate(len(is_query))
    (metric,) = (m for m in evaluator.metrics if hasattr(m, 'ranking'))
    average, first = np.full(len(is_query), np.nan), np.zeros(len(is_query), np.int64)
    queries = np.flatnonzero(is_query)
    average[queries] = metric.ranking.average_precision.numpy()
    first[queries] = metric.ranking.first_match.numpy()
    return dict(average_precision=average, first_match=first)


def scores(arrays: Dict[str, np.ndarray], counts: np.ndarray) -> Dict[str, np.ndarray]:
    """mAP and R-k in percent under every weighting of the images.

    Args:
        arrays (dict[str, ndarray]): Of :func:`collect`.
        counts (ndarray): (replicates, images), of :func:`experiments.study.bootstrap.resamples`.
            Those of the gallery have no part in it.

    Returns:
        dict[str, ndarray]: (replicates,) for mAP, R1, R5 and R10.
    """
    counted = np.flatnonzero(arrays['first_match'])
    weights, first = counts[:, counted], arrays['first_match'][counted]
    total = weights.sum(1)
    out = {'mAP': 100 * (weights @ arrays['average_precision'][counted]) / total}
    out.update({f'R{k}': 100 * (weights @ (first <= k).astype(float)) / total for k in RANKS})
    return out


def num_images(arrays: Dict[str, np.ndarray]) -> int:
    """The number of images, queries and gallery."""
    return len(arrays['first_match'])
