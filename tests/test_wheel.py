"""The package as a wheel, outside of the repository."""

import os
import subprocess
import sys

import pytest
import torch
from mmengine.registry import MODELS

from mmdenoiserep.cli import load_config
from tools import ROOT, TOOLS


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> str:
    """A folder with nothing but the package, installed from a wheel."""
    folder = tmp_path_factory.mktemp('wheel')
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '-q']
    build = ['wheel', '--no-deps', '--no-build-isolation', '--wheel-dir', str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob('*.whl')
    install = ['install', '--no-deps', '--no-index', '--target', str(folder / 'site'), str(wheel)]
    subprocess.run([*pip, *install], check=True)
    names = {path.name.split('-')[0] for path in (folder / 'site').iterdir()}
    assert names == {'mmdenoiserep'}  # no experiments, projects or tests
    return str(folder / 'site')


def test_a_stock_config_trains_and_is_calibrated(site, stock_config_file, tmp_path):
    torch.manual_seed(0)
    model = MODELS.build(load_config(str(stock_config_file)).model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'stock.pth')
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([site, str(ROOT / 'tests')]))

    def run(*command: str) -> str:
        command = [sys.executable, *map(str, command)]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run('-c', 'import mmdenoiserep; print(mmdenoiserep.__file__)')
    assert where.startswith(site)
    options = ['load_from=stock.pth', 'train_cfg.max_epochs=1']
    run(TOOLS / 'train.py', stock_config_file, '--denoiserep', '--cfg-options', *options)
    assert (tmp_path / 'work_dirs' / 'toy_denoiserep' / 'fused.pth').exists()
    run(TOOLS / 'calibrate.py', stock_config_file, 'stock.pth', 'denoised.pth', '--fuse')
    assert (tmp_path / 'denoised.pth').exists()
