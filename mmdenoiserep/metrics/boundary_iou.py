"""Boundary IoU of semantic segmentation, beside the metrics of MMSegmentation."""

import math
from typing import Dict, List, Sequence, Tuple

import cv2
import numpy as np
import torch
from mmseg.evaluation import IoUMetric
from torch import Tensor

from ..registry import METRICS

Areas = Tuple[Tensor, Tensor, Tensor, Tensor]


@METRICS.register_module()
class BoundaryIoU(IoUMetric):
    r"""aAcc, mIoU, mAcc and Boundary IoU (``B-IoU``) in one evaluation, in percent.

    Boundary IoU (Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation
    Evaluation", CVPR 2021) is the IoU of what lies inside a mask and within a distance d of its
    contour,

    .. math:: |(G_d \cap G) \cap (P_d \cap P)| \; / \; |(G_d \cap G) \cup (P_d \cap P)|,

    summed over the data set for each class and averaged over the classes, as mIoU is. As in the
    authors' code, distances are Chebyshev distances and the image's border is a contour.
    Pixels to be ignored are cut out of both maps before contours are drawn: a prediction that
    is right everywhere else scores 100.

    Args:
        dilation_ratio (float): d as a share of the image's diagonal, at least one pixel.
            Defaults to 0.02.
        **kwargs: Arguments of :class:`mmseg.evaluation.IoUMetric`.

    Raises:
        ValueError: If ``dilation_ratio`` is not positive.

    Examples:
        >>> test_evaluator = dict(
        ...     type='mmdenoiserep.BoundaryIoU', iou_metrics=['mIoU'])
    """

    def __init__(self, dilation_ratio: float = 0.02, **kwargs) -> None:
        if not dilation_ratio > 0:
            raise ValueError(f'dilation_ratio must be positive, got {dilation_ratio}')
        super().__init__(**kwargs)
        self.dilation_ratio = dilation_ratio

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """As of :class:`IoUMetric`.

        Raises:
            ValueError: If the samples or their data set are not MMSegmentation's.
        """
        if not (self.dataset_meta or {}).get('classes'):
            raise ValueError(
                'Boundary IoU needs the classes of the data set: give '
                'test_dataloader.dataset.metainfo.classes'
            )
        needed = ['pred_sem_seg'] if self.format_only else ['pred_sem_seg', 'gt_sem_seg']
        for sample in data_samples:
            for key in needed:
                if 'data' not in (sample.get(key) or {}):
                    raise ValueError(
                        f'a sample has no {key}.data: Boundary IoU is of the label maps of '
                        "MMSegmentation (default_scope='mmseg')"
                    )
        super().process(data_batch, data_samples)

    def intersect_and_union(
        self, pred_label: Tensor, label: Tensor, num_classes: int, ignore_index: int
    ) -> Tuple[Tensor, ...]:
        """The areas of :class:`IoUMetric`, then those of the boundaries, all (num_classes,)."""
        regions = IoUMetric.intersect_and_union(pred_label, label, num_classes, ignore_index)
        distance = max(1, round(self.dilation_ratio * math.hypot(*label.shape)))
        return regions + boundary_areas(pred_label, label, num_classes, ignore_index, distance)

    def compute_metrics(self, results: list) -> Dict[str, float]:
        """aAcc, mIoU, mAcc, ... and B-IoU of all processes' results together."""
        boundaries = [areas[4:] for areas in results]
        if boundaries:
            self._intersect, self._union, *_ = (sum(areas) for areas in zip(*boundaries))
        metrics = super().compute_metrics([areas[:4] for areas in results])
        if 'mB-IoU' in metrics:
            metrics['B-IoU'] = metrics.pop('mB-IoU')
        return metrics

    def total_area_to_metrics(self, *args) -> Dict[str, np.ndarray]:
        """The metrics of :class:`IoUMetric` for each class, and B-IoU for its table."""
        metrics = IoUMetric.total_area_to_metrics(*args)
        iou = (self._intersect / self._union).numpy()
        metrics['B-IoU'] = (
            iou if self.nan_to_num is None else np.nan_to_num(iou, nan=self.nan_to_num)
        )
        return metrics


def boundary_areas(
    pred_label: Tensor, label: Tensor, num_classes: int, ignore_index: int, distance: int
) -> Areas:
    """Areas of the boundary regions of all classes.

    Args:
        pred_label (Tensor): Predicted classes, integers of shape (H, W).
        label (Tensor): True classes, integers of shape (H, W).
        num_classes (int): Number of classes.
        ignore_index (int): The value in ``label`` of pixels that do not count.
        distance (int): Width of the boundary region, in pixels.

    Returns:
        tuple[Tensor]: Intersection, union, area in the prediction and area in the truth, each
        of shape (num_classes,) and dtype int64, on the CPU.
    """
    ignored = label == ignore_index
    truth = _boundaries(label, ignored, num_classes, distance)
    prediction = _boundaries(pred_label, ignored, num_classes, distance)
    areas: List[Tensor] = [
        torch.from_numpy(np.bincount(map_.ravel(), minlength=num_classes + 1)[:num_classes])
        for map_ in (truth[truth == prediction], prediction, truth)
    ]
    intersect, predicted, true = areas
    return intersect, predicted + true - intersect, predicted, true


def _boundaries(label: Tensor, ignored: Tensor, num_classes: int, distance: int) -> np.ndarray:
    """The map with ``num_classes`` wherever a pixel is in no class's boundary region."""
    label = label.masked_fill(ignored | (label < 0) | (label >= num_classes), num_classes)
    dtype = torch.uint8 if num_classes < 256 else torch.int32
    classes = label.to(dtype).cpu().numpy()
    if dtype != torch.uint8:
        classes = classes.astype(np.uint16)
    # All classes at once: a pixel is inside its own by more than the distance if the square
    # around it holds no other value. Beyond the image's border lies none of them.
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    highest = cv2.dilate(classes, square, borderType=cv2.BORDER_CONSTANT, borderValue=num_classes)
    lowest = cv2.erode(classes, square, borderType=cv2.BORDER_CONSTANT, borderValue=num_classes)
    classes[highest == lowest] = num_classes
    return classes
