"""What is there already: no tool replaces it unasked, or leaves it other than it was."""

import argparse
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from mmdenoiserep.apis.fuse import check_out
from mmdenoiserep.cli import (
    add_denoiserep_arguments,
    add_runner_arguments,
    config_from_arguments,
    load_config,
    runner,
    train,
)
from mmdenoiserep.cli.runner import test as run_test
from mmdenoiserep.stock.model import build_model


@METRICS.register_module()
class BrokenMetric(BaseMetric):
    """Has nothing to say of what it was shown."""

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        raise RuntimeError('no metric')


def from_flags(*flags):
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    add_runner_arguments(parser)
    add_denoiserep_arguments(parser)
    parser.add_argument('--resume')
    return config_from_arguments(parser.parse_args([str(flag) for flag in flags]))


@pytest.fixture
def dumped(stock_config_file, tmp_path) -> Path:
    """The config that a stock training wrote into its work folder, where its checkpoint is."""
    folder = tmp_path / 'work_dirs' / 'stock'
    config = load_config(str(stock_config_file))
    config.merge_from_dict(
        dict(work_dir=str(folder), experiment_name='stock', resume=True, load_from='epoch_1.pth')
    )
    folder.mkdir(parents=True)
    config.dump(folder / 'stock.py')
    model = build_model(config)
    torch.save(dict(meta={}, state_dict=model.state_dict()), folder / 'epoch_1.pth')
    return folder / 'stock.py'


def test_denoisers_train_in_a_folder_of_their_own(dumped, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = from_flags(dumped, '--denoiserep', '--cfg-options', 'load_from=stock.pth')
    assert config.work_dir == 'work_dirs/stock_denoiserep'
    assert config.get('experiment_name') is None and not config.resume
    config = from_flags(dumped, '--denoiserep', '--work-dir', 'own', '--resume', 'epoch_1.pth')
    assert config.work_dir == 'own'


def test_what_trains_further_does_so_too(dumped, tool_here):
    checkpoint = dumped.with_name('epoch_1.pth')
    # Its own name with `_denoiserep` is the one that comes to mind, and is nobody's.
    out = dumped.with_name('stock_denoiserep.pth')
    done = tool_here('calibrate', dumped, checkpoint, out, '--num-images', 4)
    assert done.code == 0, done.lines
    written = load_config(str(out.with_suffix('.py')))
    assert written.get('work_dir') is None and written.load_from == str(out) and not written.resume
    options = ('--num-images', 4, '--force')
    assert tool_here('calibrate', dumped, checkpoint, out, *options).code == 0  # once more
    # The stock config itself is not replaced, whatever else is called as it would be.
    done = tool_here('calibrate', dumped, checkpoint, dumped.with_suffix('.pth'), *options)
    assert done.code == 1 and 'stock.py is the config itself' in done.last


def test_the_base_of_what_is_read_is_not_replaced(dumped, tmp_path):
    (tmp_path / 'bases').mkdir()
    shutil.copy(dumped, tmp_path / 'bases' / 'robust.py')
    (tmp_path / 'middle.py').write_text("_base_ = ['./bases/robust.py']\n")
    (tmp_path / 'child.py').write_text("_base_ = './middle.py'\n")
    child = str(tmp_path / 'child.py')
    for name in ('middle.pth', 'bases/robust.pth'):
        with pytest.raises(ValueError, match=r'is the base of \S+child\.py itself'):
            check_out(str(tmp_path / name), 'dr.pth', child, force=True)
    lines = ('from mmengine.config import read_base', 'with read_base():')
    (tmp_path / 'new.py').write_text('\n'.join([*lines, '    from .bases.robust import *', '']))
    with pytest.raises(ValueError, match=r'is the base of \S+new\.py itself'):
        check_out(str(tmp_path / 'bases' / 'robust.pth'), 'dr.pth', f'{tmp_path}/new.py', True)


def test_a_refused_training_and_a_test_leave_the_config_of_the_work_folder(config_file, tmp_path):
    config = load_config(str(config_file))
    config.work_dir = str(tmp_path / 'work')
    config.custom_hooks[0].fuse = False
    config.train_cfg.max_epochs = 1
    train(config)
    written = tmp_path / 'work' / config_file.name
    before = written.read_bytes()
    other = load_config(str(config_file))
    changes = {
        'work_dir': config.work_dir,
        'experiment_name': 'other',
        'model.backbone.last_step': 7,
        'activation_checkpointing': ['backbone'],
    }
    other.merge_from_dict(changes)
    with pytest.raises(ValueError, match='activation_checkpointing'):
        train(other)
    assert written.read_bytes() == before
    other = load_config(str(config_file))
    checkpoint = str(tmp_path / 'work' / 'epoch_1.pth')
    other.merge_from_dict(dict(changes, activation_checkpointing=None, load_from=checkpoint))
    out = tmp_path / 'predictions.pkl'
    out.write_text('of an earlier test')
    other.model.backbone.pop('last_step')
    other.experiment_name = 'test'
    run_test(other, out=str(out))
    assert written.read_bytes() == before and len(out.read_bytes()) > 100
    kept = out.read_bytes()
    other.experiment_name = 'broken'
    other.test_evaluator = dict(type='BrokenMetric')
    with pytest.raises(RuntimeError, match='no metric'):
        run_test(other, out=str(out))
    assert out.read_bytes() == kept and not list(tmp_path.glob('*.part.pkl'))


def test_checkpoints_that_cannot_be_resumed_or_loaded_are_named(dumped, config_file, tmp_path):
    config = load_config(str(config_file))
    config.work_dir, config.train_cfg.max_epochs = str(tmp_path / 'stock'), 1
    stock = load_config(str(dumped))
    stock.merge_from_dict(
        dict(work_dir=config.work_dir, resume=False, load_from=None, experiment_name='a')
    )
    stock.train_cfg.max_epochs = 1
    train(stock)
    config.resume, config.load_from = True, f'{config.work_dir}/epoch_1.pth'
    config.work_dir = str(tmp_path / 'dr')
    with pytest.raises(ValueError, match=r'epoch_1\.pth is of a training without denoisers'):
        train(config)
    with pytest.raises(ValueError, match='empty path'):
        runner.set_resume(config, '')
    for wrong, message in ((str(tmp_path), 'is a folder'), (3, 'the path of one checkpoint')):
        with pytest.raises(ValueError, match=message):
            runner.check_named(wrong)


def test_settings_that_would_do_nothing_are_refused(config_file, stock_config_file, tmp_path):
    with pytest.raises(ValueError, match="no 'load_form'; 'load_from' is meant"):
        from_flags(config_file, '--cfg-options', 'load_form=stock.pth')
    from_flags(config_file, '--cfg-options', 'my_variable=1', 'load_from=None')
    (tmp_path / 'imports.py').write_text("custom_imports = dict(imports=['toy', 'nowhere.at'])\n")
    with pytest.raises(ValueError, match=r"No module named 'nowhere' \(custom_imports\)"):
        load_config(str(tmp_path / 'imports.py'))
