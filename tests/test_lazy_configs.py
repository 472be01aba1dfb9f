"""New-style configs, whose types are imported objects, through every tool."""

from pathlib import Path

import pytest
import torch
from crafted import run_tool
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.runner import CheckpointLoader, Runner
from mmengine.visualization import Visualizer
from toy import ToyBackbone, ToyModel

from mmdenoiserep import fuse_checkpoint, to_denoiserep_config, to_stock_config
from mmdenoiserep.cli import load_config
from mmdenoiserep.stock.config import is_denoiserep_config

BASE = """
from mmengine.dataset import DefaultSampler, default_collate
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper
from torch.optim import Adam

from toy import ToyData, ToyMetric

loader = dict(
    batch_size=4,
    num_workers=0,
    collate_fn=dict(type=default_collate),
    dataset=dict(type=ToyData),
    sampler=dict(type=DefaultSampler, shuffle=False),
)
train_dataloader = loader
test_dataloader = loader
train_cfg = dict(by_epoch=True, max_epochs=1)
test_cfg = dict()
test_evaluator = [dict(type=ToyMetric)]
default_scope = None  # as OpenMMLab's
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=Adam, lr=0.01))
custom_hooks = [dict(type=EMAHook)]
randomness = dict(seed=0)
"""
STOCK = """
from mmengine.config import read_base

with read_base():
    from .base import *

from toy import ToyBackbone, ToyModel

model = dict(type=ToyModel, backbone=dict(type=ToyBackbone))
"""
DENOISEREP = """
from mmengine.config import read_base

with read_base():
    from .base import *

import mmdenoiserep
from mmdenoiserep import DenoiseRepBackbone, ResumableSeedHook
from toy import ToyBackbone, ToyModel

model = dict(
    type=ToyModel, backbone=dict(type=DenoiseRepBackbone, module=dict(type=ToyBackbone))
)
custom_hooks.append(dict(type=mmdenoiserep.DenoiseRepHook, mode='label-free'))
custom_hooks.append(dict(type=ResumableSeedHook))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """New-style configs and a stock checkpoint, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, text in (('base', BASE), ('stock', STOCK), ('dr', DENOISEREP)):
        (tmp_path / f'{name}.py').write_text(text)
    model = ToyModel(dict(type='ToyBackbone'))
    torch.save(dict(meta={}, state_dict=model.state_dict()), tmp_path / 'stock.pth')
    schemes = CheckpointLoader._schemes.copy()
    yield tmp_path
    CheckpointLoader._schemes = schemes


@pytest.fixture
def tool(folder, monkeypatch, capsys):
    def run(name: str, *args: str):
        for shared in (MMLogger, MessageHub, Visualizer):
            shared._instance_dict.clear()
        done = run_tool(name, *args, capsys=capsys, monkeypatch=monkeypatch)
        assert done.code == 0, done.lines
        return done

    return run


def stock_is_stock(path: str) -> Config:
    text = Path(path).read_text()
    assert 'enoiserep' not in text.replace('dr_denoiserep', '').lower(), text
    config = Config.fromfile(path)
    assert config.model.backbone.type.endswith('ToyBackbone')
    return config


def test_training_of_a_stock_config(tool, folder):
    options = ['--cfg-options', 'load_from=stock.pth', 'custom_hooks.0.mode=label-free']
    tool('train', 'stock.py', '--denoiserep', '--work-dir', 'work', *options)
    stock_is_stock('work/fused.py')
    tool('test', 'work/fused.py', 'work/fused.pth', '--work-dir', 'w')
    tool('test', 'stock.py', 'work/fused.pth', '--work-dir', 'w')
    # What training writes of its config is a config.
    written = load_config('work/stock_denoiserep.py')
    assert is_denoiserep_config(written)
    tool('fuse_ckpt', 'work/stock_denoiserep.py', 'work/epoch_1.pth', 'again.pth')


def test_training_testing_and_fusing_of_a_denoiserep_config(tool, folder):
    tool('train', 'dr.py', '--work-dir', 'work', '--cfg-options', 'load_from=stock.pth')
    stock_is_stock('work/fused.py')
    tool('test', 'dr.py', 'work/epoch_1.pth', '--work-dir', 'w')
    tool('fuse_ckpt', 'dr.py', 'work/epoch_1.pth', 'fused.pth')
    fused = stock_is_stock('fused.py')
    assert [h.type for h in fused.custom_hooks] == ['mmengine.hooks.EMAHook']


@pytest.mark.parametrize('config', ['stock.py', 'dr.py'])
def test_calibration(config, tool, folder):
    tool('calibrate', config, 'stock.pth', 'fused.pth', '--fuse')
    stock_is_stock('fused.py')
    tool('calibrate', config, 'stock.pth', 'calibrated.pth')
    assert is_denoiserep_config(Config.fromfile('calibrated.py'))
    tool('test', 'calibrated.py', 'calibrated.pth', '--work-dir', 'w')


def test_without_the_tools(folder):
    stock = Config.fromfile('stock.py')
    config = to_denoiserep_config(stock)
    assert is_denoiserep_config(config) and is_denoiserep_config(Config.fromfile('dr.py'))
    assert to_stock_config(config).model.backbone.type == 'toy.ToyBackbone'
    assert stock.model.backbone.type is ToyBackbone  # not changed
    config = Config.fromfile('dr.py')
    config.work_dir = 'work'
    config.load_from = 'stock.pth'
    Runner.from_cfg(config).train()
    stock_is_stock('work/fused.py')
    fuse_checkpoint(Config.fromfile('dr.py'), 'work/epoch_1.pth', 'fused.pth')
    stock_is_stock('fused.py')
