import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope, init_default_scope

TESTS = Path(__file__).parent
# On a GPU deterministic mode, which resuming is tested in, needs it before CUDA starts.
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
sys.path[:0] = [str(TESTS), str(TESTS.parent)]  # for `import toy` and for `experiments`


@pytest.fixture(autouse=True)
def _mmengine_scope():
    """Every test starts in MMEngine's own scope, whatever ran before it."""
    if DefaultScope.get_current_instance() is not None:
        init_default_scope('mmengine')


@pytest.fixture
def config_file(tmp_path) -> Path:
    """The toy model's DenoiseRep config in a file."""
    from toy import toy_config

    config = toy_config(tmp_path / 'unused')
    config.pop('work_dir')
    config.custom_imports = dict(imports=['toy'])
    path = tmp_path / 'toy_denoiserep.py'
    config.dump(path)
    return path


@pytest.fixture
def stock_config_file(config_file, tmp_path) -> Path:
    """The toy model's stock config in a file."""
    from mmdenoiserep import to_stock_config
    from mmdenoiserep.cli import load_config

    stock = to_stock_config(load_config(str(config_file)))
    stock.custom_hooks = [dict(type='EMAHook')]
    stock.dump(tmp_path / 'toy.py')
    return tmp_path / 'toy.py'


@pytest.fixture(scope='session')
def stock_worker():
    """A process without mmdenoiserep, asked by a function: see `stock_worker.py`."""
    command = [sys.executable, str(TESTS / 'stock_worker.py')]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(command, cwd=TESTS.parent, **pipes) as process:

        def ask(**job) -> dict:
            process.stdin.write(json.dumps(job) + '\n')
            process.stdin.flush()
            return json.loads(process.stdout.readline() or 'null')

        yield ask
        process.stdin.close()


@pytest.fixture
def tool_here(tmp_path, monkeypatch, capsys):
    """A tool in this process and in ``tmp_path``: a call of its name and arguments."""
    from crafted import run_tool

    monkeypatch.chdir(tmp_path)
    return lambda name, *args: run_tool(name, *args, capsys=capsys, monkeypatch=monkeypatch)
