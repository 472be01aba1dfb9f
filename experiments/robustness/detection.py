"""COCO's average precision of boxes, image by image."""

import os.path as osp
from typing import Dict

import numpy as np
from mmengine.config import Config
from torch import nn

from experiments import coco
from experiments.coco import num_images, score

__all__ = ['METRIC', 'OF_IMAGES', 'check', 'collect', 'num_images', 'of_images', 'score']

METRIC = 'box AP'
#: What :func:`of_images` gives.
OF_IMAGES = 'AP of this image alone'


def check(config: Config) -> None:
    """Refuse a config without COCO's annotations.

    Raises:
        ValueError: If no evaluator names an annotation file.
        FileNotFoundError: If it does not exist.
    """
    if not osp.isfile(annotation_file(config)):
        raise FileNotFoundError(
            f'there are no annotations {annotation_file(config)}; name them with --cfg-options '
            'test_evaluator.ann_file=PATH'
        )


def annotation_file(config: Config) -> str:
    """COCO's annotations of the test images: the evaluator's, or else the data set's.

    Raises:
        ValueError: If the config names none.
    """
    evaluators = config.get('test_evaluator') or {}
    evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
    files = [e['ann_file'] for e in evaluators if e.get('ann_file')]
    dataset = config.test_dataloader.dataset
    if dataset.get('ann_file'):  # what an evaluator without a file takes them from
        files.append(osp.join(dataset.get('data_root') or '', dataset['ann_file']))
    if not files:
        raise ValueError(
            'AP needs annotations in the format of COCO; name them with --cfg-options '
            'test_evaluator.ann_file=PATH'
        )
    return files[0]


def collect(model: nn.Module, config: Config) -> Dict[str, np.ndarray]:
    """What each image of the test loader contributes: of :func:`experiments.coco.collect`."""
    return coco.collect(model, config, annotation_file(config))['all']


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
