"""COCO's average precision of a detector, image by image."""

import contextlib
import io
from typing import Dict

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
        dict[str, ndarray]: The matches of ``pycocotools`` for each (class, area range, image), as
        one array of objects under ``matches``, (classes, areas, images).
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
    matches = np.empty(len(evaluation.evalImgs), dtype=object)
    matches[:] = evaluation.evalImgs
    return dict(matches=matches.reshape(shape))


def scores(arrays: Dict[str, np.ndarray], counts: np.ndarray) -> Dict[str, np.ndarray]:
    """The metrics under every weighting of the images; see :func:`.classification.scores`.

    NaN where no object is of a size.
    """
    from pycocotools.cocoeval import COCOeval, Params

    matches = arrays['matches']
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
    return arrays['matches'].shape[2]


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]  # -1 where a class has no object of the size
    return 100 * known.mean() if known.size else float('nan')
