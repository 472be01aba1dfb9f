"""A tiny input for any model of OpenMMLab, and what the model predicts for it, as tensors.

Used with and without mmdenoiserep in the process, so it imports nothing of it.
"""

from typing import Dict, Tuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn


def make_small(config: Config, size: Tuple[int, int]) -> None:
    """Let a model take tiny images as they are, and keep all that it detects in them."""
    preprocessor = config.model.setdefault(
        'data_preprocessor', config.get('data_preprocessor') or {}
    )  # as the Runner does
    if preprocessor.get('batch_augments'):
        preprocessor.batch_augments = None  # pads to the full size
    if preprocessor.get('size'):
        preprocessor.size = size
    test_cfg = config.model.get('test_cfg') or {}
    if test_cfg.get('mode') == 'slide':
        config.model.test_cfg = ConfigDict(mode='whole')
    for part in (test_cfg, test_cfg.get('rcnn', {})):
        if 'max_per_img' in part:
            part.update(score_thr=0.0, max_per_img=20)
    if 'rpn' in test_cfg:
        test_cfg.rpn.update(nms_pre=100, max_per_img=50)


def sample(config: Config, size: Tuple[int, int], labelled: bool = True) -> dict:
    """A batch of one random image, as a data loader gives it, with or without annotations."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)
    make = dict(mmdet=_detection, mmseg=_segmentation, mmpretrain=_classification)
    return dict(inputs=[image], data_samples=[make[config.default_scope](config, size, labelled)])


def predict(model: nn.Module, data: dict) -> Dict[str, Tensor]:
    """A model's predictions for a batch of one."""
    model.eval()
    with torch.no_grad():
        (result,) = model.test_step(data)
    if 'pred_instances' in result:
        found = result.pred_instances
        return {key: found[key] for key in ('bboxes', 'scores', 'labels', 'masks') if key in found}
    if 'seg_logits' in result:
        return dict(logits=result.seg_logits.data)
    return dict(scores=result.pred_score)


def _detection(config, size, labelled):
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
        img_id=0,
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


def _segmentation(config, size, labelled):
    from mmseg.structures import SegDataSample

    out = SegDataSample(metainfo=dict(img_path='image.png', img_shape=size, ori_shape=size))
    if labelled:
        out.gt_sem_seg = PixelData(
            data=torch.arange(size[0] * size[1]).reshape(1, *size) // 97 % 20
        )
    return out


def _classification(config, size, labelled):
    from mmpretrain.structures import DataSample

    out = DataSample(metainfo=dict(img_path='image.png', img_shape=size, ori_shape=size))
    return out.set_gt_label(3) if labelled else out
