"""Batches of random images for any model of OpenMMLab, and for those of projects/."""

from typing import Tuple

import torch
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData


def sample(
    config: Config, size: Tuple[int, int], labelled: bool = True, batch_size: int = 1
) -> dict:
    """A batch of random images, as a data loader gives it, with or without annotations.

    Args:
        config (Config): Of MMDetection, MMSegmentation or MMPretrain, by its ``default_scope``.
        size (tuple[int, int]): Height and width, at least 64.
        labelled (bool): Whether the samples are annotated. Defaults to True.
        batch_size (int): Number of images; for classification there are two of each label, as
            triplet losses need them. Defaults to 1.

    Raises:
        ValueError: If the config is of another package.
    """
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)
        for _ in range(batch_size)
    ]
    make = dict(mmdet=_detection, mmseg=_segmentation, mmpretrain=_classification)
    scope = config.get('default_scope')
    if scope not in make:
        raise ValueError(f'there are no samples for default_scope={scope!r}, only for {list(make)}')
    samples = [make[scope](size, labelled, index) for index in range(batch_size)]
    return dict(inputs=images, data_samples=samples)


def _detection(size, labelled, index):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    height, width = size
    boxes = torch.tensor([[4.0, 4.0, 0.6 * width, 0.7 * height], [20.0, 10.0, 50.0, 40.0]])
    instances = InstanceData()
    if labelled:
        masks = torch.zeros(2, height, width, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int()):
            mask[top:bottom, left:right] = 1
        instances = InstanceData(
            bboxes=boxes,
            labels=torch.tensor([1, 2]),
            masks=BitmapMasks(masks.numpy(), height, width),
        )
    metainfo = dict(
        img_id=index,
        img_path='image.png',
        img_shape=size,
        ori_shape=size,
        scale_factor=(1.0, 1.0),
        border=(0, height, 0, width),
        flip=False,
    )
    out = DetDataSample(metainfo=metainfo)
    out.gt_instances, out.ignored_instances = instances, InstanceData(bboxes=boxes[:0])
    return out


def _segmentation(size, labelled, index):
    from mmseg.structures import SegDataSample

    out = SegDataSample(metainfo=dict(img_path='image.png', img_shape=size, ori_shape=size))
    if labelled:
        out.gt_sem_seg = PixelData(
            data=torch.arange(size[0] * size[1]).reshape(1, *size) // 97 % 20
        )
    return out


def _classification(size, labelled, index):
    from mmpretrain.structures import DataSample

    out = DataSample(metainfo=dict(img_path='image.png', img_shape=size, ori_shape=size))
    out.set_field(index % 2, 'camera')  # no label: re-identification needs it in testing too
    return out.set_gt_label(3 + index // 2) if labelled else out
