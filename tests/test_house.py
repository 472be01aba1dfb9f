"""Where things stand: which room may import which, and what the package needs."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest

from tools import ROOT, environment

PACKAGE = ROOT / 'mmdenoiserep'
#: Rooms from the ground up: each imports only those before it, and its own.
ROOMS = [
    {'version', 'registry', 'network', 'stock'},
    {'transforms'},
    {'diffusion'},
    {'denoiser'},
    {'conversion'},
    {'training', 'calibration', 'datasets', 'metrics'},
    {'models', 'apis'},
    {'hooks'},
    {'cli'},
]
LEVELS = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def imports_of(path: Path) -> Iterator[str]:
    """The modules that a file imports, by absolute name."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = '.'.join([*base, *(node.module or '').split('.')]).strip('.')
            yield from (f'{module}.{alias.name}' for alias in node.names)


def files(folder: str) -> list:
    found = sorted((ROOT / folder).rglob('*.py'))
    assert found or folder == 'projects'
    return found


@pytest.mark.parametrize('path', files('mmdenoiserep'), ids=lambda p: str(p.relative_to(ROOT)))
def test_data_flows_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].replace('.py', '')
    if room == '__init__':
        return
    for name in imports_of(path):
        parts = name.split('.')
        assert parts[0] not in ('experiments', 'projects', 'tests'), name
        if parts[0] == 'mmdenoiserep':
            other = parts[1]
            assert other == room or LEVELS[other] < LEVELS[room], f'{room} imports {name}'


def test_what_is_stock_to_the_method_stands_outside_it():
    for path in [*files('mmdenoiserep/network'), *files('mmdenoiserep/stock')]:
        own = [n.split('.')[1] for n in imports_of(path) if n.startswith('mmdenoiserep.')]
        room = path.parent.name
        assert set(own) <= {room, 'registry'}, path


def test_projects_and_the_package_do_not_know_each_other():
    for path in files('projects'):
        if 'tests' not in path.parts:
            assert not [n for n in imports_of(path) if n.split('.')[0] == 'mmdenoiserep'], path


def test_tests_do_not_import_tests():
    for path in files('tests'):
        names = [name for name in imports_of(path) if name.split('.')[0].startswith('test_')]
        assert not names, path


def test_the_method_is_read_in_ten_minutes():
    lines = [
        len((PACKAGE / f'{name}.py').read_text().splitlines())
        for name in ('diffusion', 'denoiser', 'conversion')
    ]
    assert sum(lines) <= 480


def test_torch_and_mmengine_suffice():
    code = """
import sys
for name in ('mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'sklearn', 'matplotlib.pyplot'):
    sys.modules[name] = None  # importing it fails
import torch
import mmdenoiserep
import mmdenoiserep.cli, mmdenoiserep.metrics, mmdenoiserep.datasets
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
mmdenoiserep.fuse_denoisers(mmdenoiserep.insert_denoisers(model))
"""
    subprocess.run([sys.executable, '-c', code], check=True, env=environment())
