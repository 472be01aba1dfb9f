"""The rows of the paper's tables at full size: `make test-rows`.

With ROWS_OUT set to a file, what was found is appended to it, a line of JSON for each row.
"""

import copy
import json
import os
import re
import runpy
import sys
from functools import partial
from pathlib import Path
from typing import Tuple

import pytest
import torch
import yaml
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from tiny import assert_same, make_small, predict
from torch import nn

from experiments.benchmark.samples import sample
from mmdenoiserep import denoisers, fuse_denoisers, to_stock_config
from mmdenoiserep.cli import load_config
from mmdenoiserep.stock.config import without_sync_norms
from mmdenoiserep.stock.model import run_backbone
from mmdenoiserep.training import denoising_losses, freeze_base

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

ROOT = Path(__file__).parent.parent


#: What the index lists: the metafiles of configs/ and of the projects.
METAFILES = [
    yaml.safe_load((ROOT / path).read_text(encoding='utf-8'))
    for path in yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
]
LISTED = [model for metafile in METAFILES for model in metafile['Models']]
#: The rows that are tested, by name: those whose metadata say how many denoisers were counted on
#: paper, and at which size to test. Of the re-identification rows that is one of each model; the
#: others have neither, since they differ from it in data set, classes and cameras only, which
#: projects/reid/tests/test_reid_configs.py holds. Baselines have no denoisers.
ROWS = {model['Name']: model for model in LISTED if 'Denoisers' in model['Metadata']}


def test_the_index_is_of_one_piece():
    collections = [c['Name'] for metafile in METAFILES for c in metafile['Collections']]
    names = [model['Name'] for model in LISTED]
    assert len(set(collections)) == len(collections) and len(set(names)) == len(names)
    for model in LISTED:
        assert model['In Collection'] in collections, model['Name']
        assert (ROOT / model['Config']).stem == model['Name']
        assert (ROOT / model['Config']).exists(), model['Name']


def test_every_config_is_a_row():
    names = {str(path.relative_to(ROOT)) for path in (ROOT / 'configs').glob('*_denoiserep.py')}
    listed = {model['Config'] for model in ROWS.values()}
    assert names == {config for config in listed if config.startswith('configs/')}


def test_rows_are_short():
    rows = [model['Config'] for model in LISTED if model['Name'].endswith('_denoiserep')]
    assert len(rows) == 22 + 19 + 4
    for row in rows:
        assert len((ROOT / row).read_text().splitlines()) <= 10, row


@pytest.mark.slow
@pytest.mark.parametrize('name', ROWS)
def test_row(name, stock_worker, tmp_path, monkeypatch):
    torch.manual_seed(0)
    path, metadata = ROOT / ROWS[name]['Config'], ROWS[name]['Metadata']
    size = tuple(metadata['Test Size'])
    config = without_sync_norms(load_config(str(path)))
    init_default_scope(config.default_scope)
    make_small(config, size)
    stock, model = build(to_stock_config(config)), build(config)
    if 'yolov3' in name:  # at random it predicts boxes beyond what a float holds
        for parameter in stock.bbox_head.parameters():
            parameter.data *= 0.01
    if 'clip' in name:  # zero until the first stage fills them
        stock.head.text_features.normal_()
    # Two images of two persons each, or a triplet loss has nothing to compare.
    batch_size = 4 if config.model.type == 'ReIDModel' else 1
    relative = [key for key in stock.state_dict() if 'relative_' in key and 'swinv2' in name]

    # 1. A stock checkpoint loads: but for the denoisers' keys nothing is missing, nothing left.
    report = model.load_state_dict(stock.state_dict(), strict=False)
    missing = [key for key in report.missing_keys if '.parametrizations.weight.0.' not in key]
    # MMPretrain's SwinV2 drops these from whatever it loads, its own state dict included.
    assert missing == relative and not report.unexpected_keys

    # 2. As many denoisers as layers were counted, at steps N ... 1.
    found = denoisers(model)
    assert [d.step for d in found.values()] == list(range(metadata['Denoisers'], 0, -1))

    # 3. Either way of training reaches every denoiser and nothing else.
    losses = {}
    for mode in ('label-aug', 'label-free'):
        data = sample(config, size, mode == 'label-aug', batch_size)
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
    batch = sample(config, size)
    torch.save(batch, files['batch.pth'])
    answer = stock_worker(
        config=stock_config_of(path),
        checkpoint=files['fused.pth'],
        batch=files['batch.pth'],
        size=size,
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
    """One training step up to the gradients, which are checked."""
    model.train()
    freeze_base(model)
    data = model.data_preprocessor(data, True)
    if mode == 'label-free':
        run, lambda_ = partial(run_backbone, model, data['inputs'], data['data_samples']), 1.0
    else:
        run, lambda_ = partial(model, **data, mode='loss'), 0.1
    losses = denoising_losses(denoisers(model), run, lambda_)
    loss, _ = model.parse_losses(losses.total)
    loss.backward()
    assert torch.isfinite(loss)
    denoising = {id(d.weight) for d in denoisers(model).values()}
    for name, parameter in model.named_parameters():
        if id(parameter) not in denoising:
            assert parameter.grad is None, name
        else:
            assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), name
    model.zero_grad(set_to_none=True)
    return loss.item()


def complexity(model: nn.Module, batch: dict) -> Tuple[int, int]:
    """Parameters, counted one by one, and FLOPs of a forward pass."""
    model.eval()
    data = model.data_preprocessor(copy.deepcopy(batch))
    model.forward = partial(model.forward, data_samples=data['data_samples'])
    try:
        # What `get_model_complexity_info` gives, which traces the model once more for activations.
        flops = FlopAnalyzer(model, (data['inputs'],)).total()
    finally:
        vars(model).pop('forward')
    return sum(p.numel() for p in model.parameters()), flops
