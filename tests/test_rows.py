"""Every row of the paper's tables at full size: `make test-rows`.

With ROWS_OUT set to a file, what was found is appended to it, a line of JSON for each row.
"""

import copy
import json
import logging
import os
import re
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Dict, NamedTuple, Tuple

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from tiny import make_small, predict
from torch import nn

from mmdenoiserep import DenoiseRepHook, denoisers, fuse_denoisers, to_stock_config
from mmdenoiserep.benchmark.samples import sample
from mmdenoiserep.cli import load_config
from mmdenoiserep.config import without_sync_norms

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

ROOT = Path(__file__).parent.parent


class Row(NamedTuple):
    """What is expected of a config: its denoisers, counted on paper, and an input it takes."""

    denoisers: int
    size: Tuple[int, int] = (64, 64)


# Transformers: the two Linear layers of each block's feed-forward part (SegFormer: two 1x1
# convolutions). ResNet and DarkNet: all convolutions but the stem's first.
ROWS = {
    'mask-rcnn_swinv2-t': Row(2 * 12),
    'mask-rcnn_swinv2-s': Row(2 * 24),
    'mask-rcnn_swin-t': Row(2 * 12),
    'mask-rcnn_swin-s': Row(2 * 24),
    'mask-rcnn_r50': Row(52),
    'faster-rcnn_r50': Row(52),
    'atss_r50': Row(52),
    'yolov3_d53': Row(51),
    'detr_r50': Row(52),
    'centernet_r50': Row(52),
    'fcn_r50': Row(54),  # ResNetV1c: a stem of three
    'fcn_r101': Row(54 + 3 * 17),
    'segformer_mit-b0': Row(2 * 8),
    'segformer_mit-b1': Row(2 * 8),
    'swinv2-tiny': Row(2 * 12, (256, 256)),
    'swinv2-small': Row(2 * 24, (256, 256)),
    'swinv2-base': Row(2 * 24, (256, 256)),
    'vit-small': Row(2 * 12),
    'vit-base': Row(2 * 12),
    'vit-small_cifar10': Row(2 * 12),
    'vit-base_cifar10': Row(2 * 12),
    'resnet50': Row(52),
}


def test_every_config_is_a_row():
    names = {path.name for path in (ROOT / 'configs').glob('*_denoiserep.py')}
    assert names == {f'{name}_denoiserep.py' for name in ROWS}


@pytest.fixture(scope='module')
def stock_worker():
    """A process without mmdenoiserep, asked by a function."""
    command = [sys.executable, str(Path(__file__).parent / 'stock_worker.py')]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:

        def ask(**job) -> dict:
            process.stdin.write(json.dumps(job) + '\n')
            process.stdin.flush()
            return json.loads(process.stdout.readline() or 'null')

        yield ask
        process.stdin.close()


@pytest.mark.slow
@pytest.mark.parametrize('name', ROWS)
def test_row(name, stock_worker, tmp_path, monkeypatch):
    torch.manual_seed(0)
    row, path = ROWS[name], ROOT / 'configs' / f'{name}_denoiserep.py'
    config = without_sync_norms(load_config(str(path)))
    init_default_scope(config.default_scope)
    make_small(config, row.size)
    stock, model = build(to_stock_config(config)), build(config)
    if 'yolov3' in name:  # at random it predicts boxes beyond what a float holds
        for parameter in stock.bbox_head.parameters():
            parameter.data *= 0.01
    relative = [key for key in stock.state_dict() if 'relative_' in key and 'swinv2' in name]

    # 1. A stock checkpoint loads: but for the denoisers' keys nothing is missing, nothing left.
    report = model.load_state_dict(stock.state_dict(), strict=False)
    missing = [key for key in report.missing_keys if '.parametrizations.weight.0.' not in key]
    # MMPretrain's SwinV2 drops these from whatever it loads, its own state dict included.
    assert missing == relative and not report.unexpected_keys

    # 2. As many denoisers as layers were counted, at steps N ... 1.
    found = denoisers(model)
    assert [d.step for d in found.values()] == list(range(row.denoisers, 0, -1))

    # 3. Either way of training reaches every denoiser and nothing else.
    losses = {}
    for mode in ('label-aug', 'label-free'):
        data = sample(config, row.size, labelled=mode == 'label-aug')
        losses[mode] = train_step(model, mode, data)

    # 4. Trained denoisers, fused by the tool, are what a stock model needs to predict the same.
    for denoiser in found.values():
        nn.init.normal_(denoiser.weight, std=denoiser.weight.shape[1] ** -0.5)
    files = {key: str(tmp_path / key) for key in ('epoch_1.pth', 'fused.pth', 'batch.pth')}
    torch.save(dict(state_dict=model.state_dict()), files['epoch_1.pth'])
    monkeypatch.setattr(
        sys, 'argv', ['fuse_ckpt.py', str(path), files['epoch_1.pth'], files['fused.pth']]
    )
    runpy.run_path(str(ROOT / 'tools' / 'fuse_ckpt.py'), run_name='__main__')
    state = torch.load(files['fused.pth'], weights_only=True)['state_dict']
    before = stock.state_dict()
    changed = {key for key in before if not torch.equal(state[key], before[key])}
    assert list(state) == list(before)
    assert changed == {f'{layer}.weight' for layer in found}
    batch = sample(config, row.size)
    torch.save(batch, files['batch.pth'])
    answer = stock_worker(
        config=stock_config_of(path),
        checkpoint=files['fused.pth'],
        batch=files['batch.pth'],
        size=row.size,
        strict=not relative,
        predictions=str(tmp_path / 'predictions.pth'),
    )
    assert answer, 'the stock config does not load the fused checkpoint; see stderr'
    expected = predict(model, copy.deepcopy(batch))
    predictions = torch.load(tmp_path / 'predictions.pth')
    difference = assert_same(predictions, expected)

    # 5. Fused, the model costs what the stock model costs.
    fuse_denoisers(model)
    stock.load_state_dict(state, strict=False)
    cost = complexity(model, batch)
    assert cost == complexity(stock, batch)
    assert cost[0] == answer['parameters']

    if os.environ.get('ROWS_OUT'):
        record = dict(
            config=path.name,
            denoisers=len(found),
            losses=losses,
            difference=difference,
            parameters=cost[0],
            flops=cost[1],
            strict=not relative,
        )
        with open(os.environ['ROWS_OUT'], 'a') as file:
            file.write(json.dumps(record) + '\n')


def build(config: Config) -> nn.Module:
    # A copy: DETR's head changes the config that it is built from.
    return MODELS.build(copy.deepcopy(config.model))


def stock_config_of(path: Path) -> str:
    """The stock config that a row is based on, as the row names it."""
    base = re.search(r"_base_ = \[\s*'(.+?)'", path.read_text()).group(1)
    return base if '::' in base else str(path.parent / base)


def train_step(model: nn.Module, mode: str, data: dict) -> float:
    """One training step as the hook makes it, up to the gradients, which are checked."""
    hook = DenoiseRepHook(mode=mode)
    runner = SimpleNamespace(model=model, logger=logging.getLogger('rows'), seed=0, iter=0)
    hook.before_run(runner)
    hook.before_train(runner)
    model.train()
    hook.before_train_iter(runner, 0)
    loss, _ = model.parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))
    loss.backward()
    vars(model).pop('forward')
    assert torch.isfinite(loss)
    denoising = {id(d.weight) for d in denoisers(model).values()}
    for name, parameter in model.named_parameters():
        if id(parameter) not in denoising:
            assert parameter.grad is None, name
        else:
            assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), name
    model.zero_grad(set_to_none=True)
    return loss.item()


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


def complexity(model: nn.Module, batch: dict) -> Tuple[int, int]:
    """Parameters, counted one by one, and FLOPs of a forward pass."""
    model.eval()
    data = model.data_preprocessor(copy.deepcopy(batch))
    model.forward = partial(model.forward, data_samples=data['data_samples'])
    try:
        flops = get_model_complexity_info(
            model, inputs=(data['inputs'],), show_table=False, show_arch=False
        )['flops']
    finally:
        vars(model).pop('forward')
    return sum(p.numel() for p in model.parameters()), flops
