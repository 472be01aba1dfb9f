"""The full-size Mask R-CNN SwinV2-T: fused, it drops into the stock config."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from real import BASELINE, COCO, CONFIG, ROOT, needs_coco
from torch import nn

from mmdenoiserep import denoisers

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')

# Small images and few proposals: the weights are random, and so is the number of detections.
DETECT = """
import json, sys
import numpy as np, torch
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config

config, checkpoint, images, out = sys.argv[1:]
config = Config.fromfile(config)
config.test_dataloader.dataset.pipeline[1].scale = (224, 128)
config.model.test_cfg.rpn.update(nms_pre=200, max_per_img=50)
config.model.test_cfg.rcnn.max_per_img = 20
model = init_detector(config, checkpoint, device='cpu')
results = []
for path in sorted(json.loads(images)):
    found = inference_detector(model, path).pred_instances
    results.append((found.bboxes, found.scores, found.labels, found.masks.sum((1, 2))))
torch.save(results, out)
if config.get('custom_hooks') is None:
    assert not any(name.startswith('mmdenoiserep') for name in sys.modules)
"""


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], cwd=ROOT, check=True)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> Path:
    """A DenoiseRep checkpoint with random weights, denoisers included, that detects things."""
    from mmengine.registry import MODELS, init_default_scope

    from mmdenoiserep.cli import load_config

    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(load_config(str(ROOT / CONFIG)).model)
    with torch.no_grad():
        for denoiser in denoisers(model).values():
            nn.init.normal_(denoiser.weight, std=denoiser.weight.shape[1] ** -0.5)
        model.roi_head.bbox_head.fc_cls.weight *= 100  # confident at random
    path = tmp_path_factory.mktemp('mask_rcnn') / 'epoch_1.pth'
    meta = dict(dataset_meta=dict(classes=[str(i) for i in range(80)]))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), path)
    return path


@pytest.fixture(scope='module')
def fused(checkpoint) -> Path:
    out = checkpoint.parent / 'fused.pth'
    run('tools/fuse_ckpt.py', CONFIG, str(checkpoint), str(out))
    return out


@pytest.mark.slow
def test_the_fused_checkpoint_has_the_keys_and_shapes_of_the_stock_model(fused):
    code = f"""
import sys, torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
config = Config.fromfile({BASELINE!r})
init_default_scope('mmdet')
model = MODELS.build(config.model)
stock = model.state_dict()
state = torch.load({str(fused)!r}, weights_only=True)['state_dict']
assert {{k: v.shape for k, v in state.items()}} == {{k: v.shape for k, v in stock.items()}}
assert list(state) == list(stock)
# MMPretrain's SwinV2 drops its relative positions from whatever it loads, from its own state
# dict too; of nothing else may strict loading complain.
own = model.load_state_dict(stock, strict=False)
assert model.load_state_dict(state, strict=False) == own
assert not own.unexpected_keys
assert all('relative_' in key for key in own.missing_keys)
relative = [k for k in state if 'relative_' in k]
assert relative and all(torch.equal(state[k], stock[k]) for k in relative)
assert not any(name.startswith('mmdenoiserep') for name in sys.modules)
"""
    run('-c', code)


@pytest.mark.slow
@needs_coco
def test_the_stock_config_detects_what_the_unfused_model_detects(checkpoint, fused, tmp_path):
    images = json.dumps([str(path) for path in (COCO / 'train2017').glob('*.jpg')])
    results = []
    for config, weights in ((CONFIG, checkpoint), (BASELINE, fused)):
        out = tmp_path / f'{len(results)}.pth'
        run('-c', DETECT, config, str(weights), images, str(out))
        results.append(torch.load(out))
    assert len(results[0]) == len(results[1]) == 100
    assert sum(len(scores) for _, scores, *_ in results[0]) > 500  # it does detect
    for unfused, stock in zip(*results):
        assert torch.allclose(unfused[0], stock[0], rtol=0, atol=1e-4)
        assert torch.allclose(unfused[1], stock[1], rtol=0, atol=1e-4)
        assert torch.equal(unfused[2], stock[2]) and torch.equal(unfused[3], stock[3])
