"""The command-line tools on the toy model."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from test_hooks import environment
from toy import toy_config

from mmdenoiserep.cli import load_config

TOOLS = Path(__file__).parent.parent / 'tools'


@pytest.fixture
def config(tmp_path) -> Path:
    config = toy_config(tmp_path / 'unused')
    config.pop('work_dir')
    config.custom_imports = dict(imports=['toy'])
    config.test_dataloader = dict(config.train_dataloader, sampler=dict(type='DefaultSampler'))
    config.test_evaluator = [dict(type='ToyMetric')]
    config.test_cfg = dict()
    path = tmp_path / 'toy_denoiserep.py'
    config.dump(path)
    return path


def tool(name: str, *args, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOLS / f'{name}.py'), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=cwd)


def test_train_resume_test_and_the_default_work_folder(config, tmp_path):
    work_dir = tmp_path / 'work_dirs' / 'toy_denoiserep'
    done = tool('train', config, '--cfg-options', 'train_cfg.max_epochs=1', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {'epoch_1.pth', 'fused.pth', 'fused.py'} <= {p.name for p in work_dir.iterdir()}

    done = tool('train', config, '--resume', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (work_dir / 'epoch_2.pth').exists()

    out = tmp_path / 'predictions.pkl'
    done = tool('test', config, work_dir / 'epoch_2.pth', '--out', out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(pickle.loads(out.read_bytes())) == 16


def test_a_missing_checkpoint_is_named_before_anything_is_built(config, tmp_path):
    for name, args in (
        ('train', ['--cfg-options', 'load_from=none.pth']),
        ('train', ['--resume', 'none.pth']),
        ('test', ['none.pth']),
    ):
        done = tool(name, config, *args, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith('load_from: there is no checkpoint none.pth')


def test_flags_that_the_config_cannot_serve(config, tmp_path):
    done = tool('train', config, '--auto-scale-lr', cwd=tmp_path)
    assert done.returncode == 1 and 'base_batch_size' in done.stderr
    done = tool('test', config, 'none.pth', '--show-dir', 'pictures', cwd=tmp_path)
    assert done.returncode == 1 and 'default_hooks.visualization' in done.stderr
    done = tool('test', config, 'none.pth', '--out', 'out.json', cwd=tmp_path)
    assert done.returncode == 2 and '--out' in done.stderr


@pytest.mark.parametrize('package', ['mmdet', 'mmseg', 'mmpretrain'])
def test_bases_of_every_package_resolve(package, tmp_path):
    pytest.importorskip(package)
    path = tmp_path / 'config.py'
    path.write_text(f"_base_ = '{package}::_base_/default_runtime.py'\n")
    assert load_config(str(path)).default_scope == package
