"""COCO's average precision of a detector, image by image."""

import contextlib
import io
from typing import Dict, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

#: By COCO's summary: area range and IoU threshold.
METRICS = {'AP': True, 'AP50': True, 'APs': True, 'APm': True, 'APl': True}
MAX_DETECTIONS = 100


@torch.no_grad()
def collect(model: nn.Module, config: Config) -> Dict[str, np.ndarray]:
    """What each image of the test loader contributes to COCO's precisions.

    Returns:
        dict[str, ndarray]: Of :func:`flatten`, for each (class, area range, image).
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    evaluator = config.test_evaluator
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(evaluator.ann_file)
    loader = Runner.build_dataloader(config.test_dataloader)
    categories = truth.getCatIds(catNms=loader.dataset.metainfo['classes'])
    # pycocotools gives categories in the order of the file, data sets in that of their classes.
    by_name = {truth.cats[i]['name']: i for i in categories}
    categories = [by_name[name] for name in loader.dataset.metainfo['classes']]
    rows, images = [], []
    for batch in loader:
        for result in model.test_step(batch):
            images.append(result.img_id)
            found = result.pred_instances
            boxes = found.bboxes.cpu().numpy()
            sizes = boxes[:, 2:] - boxes[:, :2]
            for box, size, score, label in zip(
                boxes, sizes, found.scores.tolist(), found.labels.tolist()
            ):
                rows.append([result.img_id, *box[:2], *size, score, categories[label]])
    if not rows:  # which pycocotools does not take: one that matches nothing
        rows.append([images[0], 0, 0, 0, 0, 0, categories[0]])
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes(np.array(rows, dtype=float).reshape(-1, 7))
        evaluation = COCOeval(truth, found, 'bbox')
        evaluation.params.imgIds = sorted(images)
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.params.catIds = sorted(categories)
        evaluation.evaluate()
    shape = (len(categories), len(evaluation.params.areaRng), len(images))
    return flatten(evaluation.evalImgs, shape)


def flatten(
    matches: Sequence[Optional[dict]], shape: Tuple[int, int, int]
) -> Dict[str, np.ndarray]:
    """The matches of ``pycocotools`` as plain arrays, which can be kept without pickling.

    Args:
        matches (Sequence[dict | None]): ``COCOeval.evalImgs``: for each (class, area range, image)
            what its precisions are made of; None where there is neither box nor detection.
        shape (tuple[int, int, int]): Their numbers.

    Returns:
        dict[str, ndarray]: ``detections`` and ``objects``, how many each entry has (-1: None), of
        ``shape``; and in a row for all entries ``score`` and ``ignored_object``, and by IoU
        threshold ``hit`` and ``ignored``.
    """
    there = [match for match in matches if match is not None]
    thresholds = there[0]['dtMatches'].shape[0] if there else 0
    counts = [[len(m['dtScores']), len(m['gtIgnore'])] if m else [-1, -1] for m in matches]
    detections, objects = np.array(counts, dtype=int).reshape(*shape, 2).transpose(3, 0, 1, 2)
    empty = np.zeros((thresholds, 0))

    def joined(key: str, first: np.ndarray) -> np.ndarray:
        return np.concatenate([first, *(np.asarray(m[key]) for m in there)], axis=-1)

    return dict(
        detections=detections,
        objects=objects,
        score=joined('dtScores', np.zeros(0)),
        ignored_object=joined('gtIgnore', np.zeros(0)).astype(bool),
        hit=joined('dtMatches', empty) > 0,
        ignored=joined('dtIgnore', empty) > 0,
    )


def _matches(arrays: Dict[str, np.ndarray]) -> np.ndarray:
    """The inverse of :func:`flatten`, as far as precisions need it: objects, of its shape."""
    shape = arrays['detections'].shape
    out = np.empty(arrays['detections'].size, dtype=object)
    first = first_object = 0
    counts = zip(arrays['detections'].ravel().tolist(), arrays['objects'].ravel().tolist())
    for i, (detections, objects) in enumerate(counts):
        if detections < 0:
            continue
        end, end_object = first + detections, first_object + objects
        out[i] = dict(
            dtScores=arrays['score'][first:end],
            dtMatches=arrays['hit'][:, first:end],
            dtIgnore=arrays['ignored'][:, first:end],
            gtIgnore=arrays['ignored_object'][first_object:end_object],
        )
        first, first_object = end, end_object
    return out.reshape(shape)


def scores(arrays: Dict[str, np.ndarray], counts: np.ndarray) -> Dict[str, np.ndarray]:
    """The metrics under every weighting of the images; see :func:`.classification.scores`.

    NaN where no object is of a size.
    """
    from pycocotools.cocoeval import COCOeval, Params

    matches = _matches(arrays)
    categories, _, images = matches.shape
    evaluation = COCOeval.__new__(COCOeval)
    evaluation.params = Params('bbox')
    evaluation.params.maxDets = [MAX_DETECTIONS]
    evaluation.params.catIds = list(range(categories))
    out = {name: np.full(len(counts), np.nan) for name in METRICS}
    for i, row in enumerate(counts):
        chosen = np.repeat(np.arange(images), row)
        evaluation.params.imgIds = list(range(len(chosen)))
        evaluation._paramsEval = evaluation.params
        evaluation.evalImgs = list(matches[:, :, chosen].reshape(-1))
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        precision = evaluation.eval['precision'][..., 0]  # IoU, recall, class, area
        out['AP'][i] = _mean(precision[..., 0])
        out['AP50'][i] = _mean(precision[0, ..., 0])
        for area, name in enumerate(('APs', 'APm', 'APl'), 1):
            out[name][i] = _mean(precision[..., area])
    return out


def num_images(arrays: Dict[str, np.ndarray]) -> int:
    """The number of images."""
    return arrays['detections'].shape[2]


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]  # -1 where a class has no object of the size
    return 100 * known.mean() if known.size else float('nan')
