"""Models of OpenMMLab on tiny images, and what they predict, as tensors.

Used with and without mmdenoiserep in the process, so it imports nothing of it.
"""

from typing import Dict, Tuple

import torch
from mmengine.config import Config, ConfigDict
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
    if 'pred_feature' in result:
        return dict(feature=result.pred_feature)
    return dict(scores=result.pred_score)


def assert_same(predictions: Dict[str, torch.Tensor], expected: Dict[str, torch.Tensor]) -> float:
    """Compare predictions; the largest difference, relative to the largest value."""
    assert predictions.keys() == expected.keys()
    worst = 0.0
    for key, value in expected.items():
        assert predictions[key].shape == value.shape and value.numel(), key
        if value.is_floating_point():
            difference = (predictions[key] - value).abs().max() / value.abs().max()
            assert difference < 1e-4, key
            worst = max(worst, difference.item())
        else:
            assert torch.equal(predictions[key], value), key
    return worst
