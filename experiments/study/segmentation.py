"""IoU of regions and of boundaries, and calibration, of a segmentation model, image by image."""

from typing import Any, Dict, List

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import METRICS as REGISTRY
from mmengine.runner import Runner
from torch import nn

from experiments.tasks import evaluators_of

from .reliability import BINS, bins_of

METRICS = {'mIoU': True, 'B-IoU': True, 'aAcc': True, 'cross-entropy': False, 'ECE': False}


@torch.no_grad()
def collect(model: nn.Module, config: Config) -> Dict[str, np.ndarray]:
    """Statistics of each image of the test loader.

    Returns:
        dict[str, ndarray]: Areas by class: ``intersect``, ``union``, ``boundary_intersect`` and
        ``boundary_union``, each (images, classes); ``pixels``, ``correct`` and ``cross_entropy``,
        sums over the labelled pixels, (images,); ``gap``, the sum of hit minus confidence in each
        bin, (images, BINS).
    """
    metric = _metric(config)
    ignored = metric.ignore_index
    rows: List[tuple] = []
    for batch in Runner.build_dataloader(config.test_dataloader):
        for result in model.test_step(batch):
            logits = result.seg_logits.data
            if len(logits) == 1:  # of two classes, by a threshold of its own: the probability of 1
                logits = torch.cat([1 - logits, logits]).clamp_min(1e-12).log()
            label = result.gt_sem_seg.data.squeeze(0).to(logits.device)
            predicted = result.pred_sem_seg.data.squeeze(0).long()
            classes = len(logits)
            areas = metric.intersect_and_union(predicted, label, classes, ignored)
            valid = label != ignored
            log_p = logits[:, valid].float().log_softmax(0)
            truth, best = label[valid].long(), predicted[valid]
            confidence = log_p.gather(0, best[None])[0].exp().cpu().numpy()
            hit = (best == truth).cpu().numpy().astype(float)
            rows.append(
                (
                    *(areas[i].cpu().numpy() for i in (0, 1, 4, 5)),
                    hit.size,
                    hit.sum(),
                    -log_p.gather(0, truth[None]).sum().item(),
                    np.bincount(bins_of(confidence), hit - confidence, minlength=BINS),
                )
            )
    names = ('intersect', 'union', 'boundary_intersect', 'boundary_union')
    names += ('pixels', 'correct', 'cross_entropy', 'gap')
    return {name: np.stack(column).astype(float) for name, column in zip(names, zip(*rows))}


def _metric(config: Config) -> Any:
    """What measures boundaries as the config's evaluators would, where they say how."""
    known = ('ignore_index', 'dilation_ratio')
    settings = {k: e[k] for e in evaluators_of(config) for k in known if k in e}
    return REGISTRY.build(dict(settings, type='mmdenoiserep.BoundaryIoU', iou_metrics=['mIoU']))


def scores(arrays: Dict[str, np.ndarray], counts: np.ndarray) -> Dict[str, np.ndarray]:
    """The metrics under every weighting of the images; see :func:`.classification.scores`."""
    with np.errstate(invalid='ignore'):  # a class may be absent from a sample
        regions = (counts @ arrays['intersect']) / (counts @ arrays['union'])
        boundaries = (counts @ arrays['boundary_intersect']) / (counts @ arrays['boundary_union'])
    pixels = counts @ arrays['pixels']
    return {
        'mIoU': 100 * np.nanmean(regions, 1),
        'B-IoU': 100 * np.nanmean(boundaries, 1),
        'aAcc': 100 * (counts @ arrays['correct']) / pixels,
        'cross-entropy': (counts @ arrays['cross_entropy']) / pixels,
        'ECE': 100 * np.abs(counts @ arrays['gap']).sum(1) / pixels,
    }


def num_images(arrays: Dict[str, np.ndarray]) -> int:
    """The number of images."""
    return len(arrays['pixels'])
