"""COCO's average precision of boxes under thousands of samples of the images at once."""

import contextlib
import io
import os.path as osp
from typing import Dict, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from .tasks import evaluators_of

MAX_DETECTIONS = 100
REMEDY = (
    "give the evaluator's ann_file: with --cfg-options test_evaluator.ann_file=PATH, or in the "
    "config of a study's model"
)
IN_COCO_FORMAT = f'AP needs annotations in the format of COCO; {REMEDY}'
#: Evaluators of something else, by annotations that COCO's box AP is not made of.
OTHERS = ('CocoPanopticMetric', 'LVISMetric')
#: Recalls at which COCO reads the precision.
RECALLS = np.linspace(0, 1, 101)
#: Of an array of (replicates, detections): keeps the memory below a gigabyte.
MOST_CELLS = 2**24
#: COCO's area ranges, in square pixels.
AREAS = dict(all=(0, 1e10), small=(0, 32**2), medium=(32**2, 96**2), large=(96**2, 1e10))


def check(config: Config) -> None:
    """Refuse a config without COCO's annotations.

    Raises:
        ValueError: If no evaluator names an annotation file, or it is of another format.
        FileNotFoundError: If it does not exist.
    """
    path = annotation_file(config)
    if not osp.isfile(path):
        raise FileNotFoundError(f'there are no annotations {path}; {REMEDY}')
    if not path.endswith('.json'):
        raise ValueError(f'{path} is no JSON file, and {IN_COCO_FORMAT}')


def annotation_file(config: Config) -> str:
    """COCO's annotations of the test images: the evaluator's, or else the data set's.

    Raises:
        ValueError: If the config names none, or only what is measured otherwise.
    """
    evaluators = evaluators_of(config)
    kinds = [str(evaluator.get('type')).split('.')[-1] for evaluator in evaluators]
    own = [evaluator for evaluator, kind in zip(evaluators, kinds) if kind not in OTHERS]
    if evaluators and not own:
        raise ValueError(
            f"{kinds[0]} does not measure COCO's box AP, which is what is measured here; for that "
            'give a CocoMetric and its ann_file: --cfg-options test_evaluator.type=CocoMetric '
            'test_evaluator.ann_file=PATH'
        )
    files = [evaluator['ann_file'] for evaluator in own if evaluator.get('ann_file')]
    dataset = config.test_dataloader.dataset
    if dataset.get('ann_file'):  # what an evaluator without a file takes them from
        files.append(osp.join(dataset.get('data_root') or '', dataset['ann_file']))
    if not files:
        raise ValueError(IN_COCO_FORMAT)
    return files[0]


@torch.no_grad()
def collect(
    model: nn.Module, config: Config, areas: Sequence[str] = ('all',)
) -> Dict[str, Dict[str, np.ndarray]]:
    """What each image of the test loader contributes to COCO's precisions.

    Args:
        model (nn.Module): A detector.
        config (Config): Names the test loader, and the annotations of its images.
        areas (Sequence[str]): Keys of ``AREAS``.

    Returns:
        dict[str, dict[str, ndarray]]: By area, ``objects``, those that count, (classes, images);
        and for each of D detections, at most ``MAX_DETECTIONS`` of a class and image: ``category``
        and ``image``, indices, ``score``, (D,), ``hit`` and ``ignored`` at each IoU threshold,
        (thresholds, D).

    Raises:
        ValueError: If the annotations have other classes.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations = annotation_file(config)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
    loader = Runner.build_dataloader(config.test_dataloader)
    # Labels count the classes in the file's order, in MMDetection's data sets as in its metric.
    categories = np.array(truth.getCatIds(catNms=loader.dataset.metainfo['classes']))
    if not len(categories):
        raise ValueError(f'{annotations} has none of the classes of the data set')
    rows, images = [], []
    for batch in loader:
        for result in model.test_step(batch):
            found = result.pred_instances
            boxes = found.bboxes.cpu().numpy()
            image = np.full(len(boxes), result.img_id)
            parts = [image, boxes[:, :2], boxes[:, 2:] - boxes[:, :2], found.scores.cpu().numpy()]
            rows.append(np.column_stack([*parts, categories[found.labels.cpu().numpy()]]))
            images.append(result.img_id)
    rows = np.concatenate(rows).astype(float)
    if not len(rows):  # which pycocotools does not take: one that matches nothing
        rows = np.array([[images[0], 0, 0, 0, 0, 0, categories[0]]], dtype=float)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(rows), 'bbox')
        evaluation.params.imgIds = images
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.params.catIds = categories.tolist()
        evaluation.params.areaRng = [list(AREAS[area]) for area in areas]
        evaluation.params.areaRngLbl = list(areas)
        evaluation.evaluate()
    # By class, area and image; from pycocotools' order of the images, by id, to the loader's.
    matches = np.array(evaluation.evalImgs, dtype=object)
    matches = matches.reshape(len(categories), len(areas), len(images))
    order = np.argsort(images)
    out = {}
    for i, area in enumerate(areas):
        arrays = flatten(matches[:, i].ravel().tolist(), len(categories), len(images))
        arrays['image'] = order[arrays['image']]
        arrays['objects'][:, order] = arrays['objects'].copy()
        out[area] = arrays
    return out


def flatten(matches: list, categories: int, images: int) -> Dict[str, np.ndarray]:
    """What :func:`collect` gives, of one area, from ``COCOeval.evalImgs``.

    Args:
        matches (list[dict | None]): For each category, for each image.
        categories (int): Their number.
        images (int): Their number.
    """
    objects = np.zeros((categories, images), np.int64)
    columns: tuple = ([], [], [], [], [])
    for place, match in enumerate(matches):
        if match is None:  # neither object nor detection
            continue
        category, image = divmod(place, images)
        objects[category, image] = np.count_nonzero(np.asarray(match['gtIgnore']) == 0)
        number = len(match['dtScores'])
        parts = (np.full(number, category), np.full(number, image), match['dtScores'])
        parts += (np.asarray(match['dtMatches']) > 0, np.asarray(match['dtIgnore']) > 0)
        for column, part in zip(columns, parts):
            column.append(part)
    category, image, score, hit, ignored = (np.concatenate(c, axis=-1) for c in columns)
    return dict(
        objects=objects,
        category=category.astype(np.int32),
        image=image.astype(np.int32),
        score=score,
        hit=hit,
        ignored=ignored,
    )


def score(arrays: Dict[str, np.ndarray], counts: np.ndarray) -> np.ndarray:
    """AP in percent under every weighting of the images, (replicates,).

    What ``COCOeval.accumulate`` makes of the images repeated as often as they count (but for the
    order of equal scores within an image, which is an accident in both), without going through it
    for each sample. NaN where a sample has no object.

    An image that counts w times has each of its detections w times, next to each other in the
    order of the scores. Precisions are read off where a hit ends such a block: COCO takes the
    highest precision at a recall or beyond it, and within a block of hits precision rises.
    """
    total, known = np.zeros(len(counts)), np.zeros(len(counts))
    for category, objects in enumerate(arrays['objects']):
        there = counts @ objects
        mine = np.flatnonzero(arrays['category'] == category)
        mine = mine[np.argsort(-arrays['score'][mine], kind='stable')]
        known += there > 0
        if not len(mine) or not there.any():
            continue
        hit, ignored = arrays['hit'][:, mine], arrays['ignored'][:, mine]
        step = max(1, MOST_CELLS // len(mine))
        for begin in range(0, len(counts), step):
            part = slice(begin, begin + step)
            weights = counts[part][:, arrays['image'][mine]].astype(np.int32)
            total[part] += _precision(weights, hit, ignored, there[part])
    with np.errstate(invalid='ignore', divide='ignore'):
        return 100 * total / known


def _precision(
    weights: np.ndarray, hit: np.ndarray, ignored: np.ndarray, objects: np.ndarray
) -> np.ndarray:
    """A class's precision, mean over recalls and IoU thresholds, (replicates,); 0 without objects.

    Args:
        weights (ndarray): How often each detection counts, in the order of the scores,
            (replicates, detections).
        hit (ndarray): Whether it is one, (thresholds, detections).
        ignored (ndarray): Whether it counts for nothing, (thresholds, detections).
        objects (ndarray): How many there are, (replicates,).
    """
    every = None
    out = np.zeros(len(weights))
    for hits, nothing in zip(hit, ignored):
        found = np.flatnonzero(hits & ~nothing)
        if not len(found):
            continue
        if nothing.any():
            seen = np.cumsum(np.where(nothing, 0, weights), 1)[:, found]
        else:  # as with nearly all thresholds, so summed once
            every = np.cumsum(weights, 1) if every is None else every
            seen = every[:, found]
        right = np.cumsum(weights[:, found], 1)
        precision = right / np.maximum(seen, 1)
        highest = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        # How many of the recalls are reached, and which of them by this hit.
        reached = np.searchsorted(RECALLS, right / np.maximum(objects, 1)[:, None], side='right')
        out += (np.diff(reached, axis=1, prepend=0) * highest).sum(1)
    return np.where(objects > 0, out, 0) / (len(RECALLS) * len(hit))


def num_images(arrays: Dict[str, np.ndarray]) -> int:
    """The number of images."""
    return arrays['objects'].shape[1]
