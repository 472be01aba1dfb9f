"""The documentation: its examples run, its commands are the tools', its links lead somewhere."""

import importlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Iterator, List, Set

import pytest
import torch
import yaml
from mmengine.config import Config
from torch import nn

import mmdenoiserep
from mmdenoiserep.cli import config_from_arguments, load_config
from mmdenoiserep.network import layers
from mmdenoiserep.stock.config import is_denoiserep_config
from tools import ROOT

README = ROOT / 'README.md'
PAGES = [README, ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]


def by_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> List[str]:
    """The fenced blocks of a language, each at its line, so that a traceback names the place."""
    text = path.read_text(encoding='utf-8')
    found = re.finditer(rf'^```{language}\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
    return ['\n' * text[: m.start(1)].count('\n') + m.group(1) for m in found]


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r'^```.*?^```', '', path.read_text(encoding='utf-8'), flags=re.M | re.DOTALL)


def run(code: str, namespace: dict, path: Path) -> dict:
    exec(compile(code, str(path), 'exec'), namespace)
    return namespace


# Python


def test_the_examples_run_in_order(monkeypatch):
    monkeypatch.setattr(layers, '_CHANNEL_DIMS', dict(layers._CHANNEL_DIMS))
    path = ROOT / 'docs' / 'python.md'
    namespace: dict = {}
    for code in blocks(path, 'python'):
        run(code, namespace, path)
    # What the page says of its models, whatever its own assertions are.
    stock, deployed, augmented = (namespace[name] for name in ('stock', 'deployed', 'augmented'))
    changed = {
        key
        for key, value in deployed.state_dict().items()
        if not torch.equal(value, stock.state_dict()[key])
    }
    assert changed == {'3.weight', '6.weight'}
    assert not torch.equal(augmented(namespace['images']), stock(namespace['images']))
    robust = namespace['robust'].state_dict()
    changed = {
        key for key, value in robust.items() if not torch.equal(value, stock.state_dict()[key])
    }
    assert changed == {'0.weight', '3.weight', '6.weight'}


def test_the_readme_in_python():
    (code,) = (code for code in blocks(README, 'python') if 'insert_denoisers' in code)
    network = nn.Sequential()
    network.add_module('block', nn.Sequential())
    network.block.add_module('ffn', nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)))
    before = network.state_dict()
    seen: list = []
    # The line `...` is where the reader trains.
    code = code.replace('...  # train', 'seen.extend(model.state_dict())')
    run(code, dict(model=network, seen=seen), README)
    assert sum('parametrizations' in key for key in seen) == 6
    assert list(network.state_dict()) == list(before)


def test_the_three_statements_make_a_denoiserep_config(tmp_path):
    pytest.importorskip('mmdet')
    (code,) = (code for code in blocks(README, 'python') if '_base_' in code)
    (tmp_path / '_base_').mkdir()
    shutil.copy(ROOT / 'configs' / '_base_' / 'denoiserep.py', tmp_path / '_base_')
    (tmp_path / 'my_denoiserep.py').write_text(code.lstrip())
    config = Config.fromfile(tmp_path / 'my_denoiserep.py')
    assert is_denoiserep_config(config) and config.load_from == '<the stock checkpoint>'
    assert config.custom_hooks[0].type == 'mmdenoiserep.DenoiseRepHook'
    stock = load_config(re.search(r"'(mmdet::.*?)'", code).group(1))
    assert mmdenoiserep.to_stock_config(config).model.backbone == stock.model.backbone


# The command line


def targets_of_make() -> Set[str]:
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    return set(re.findall(r'^([a-z-]+):', makefile, re.MULTILINE))


def commands(path: Path) -> Iterator[List[str]]:
    """The commands of a page's fenced bash blocks, in words."""
    for block in blocks(path, 'bash'):
        for line in block.replace('\\\n', ' ').splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


ALL_COMMANDS = [
    pytest.param(words, id=f'{path.stem}: {" ".join(words)[:60]}')
    for path in PAGES
    for words in commands(path)
]


def arguments_of(words: List[str], monkeypatch):
    """What a tool makes of the arguments of a command, without doing anything."""
    path = ROOT / words[1]
    with monkeypatch.context() as patch:
        patch.setattr(sys, 'argv', words[1:])
        main = runpy.run_path(str(path))['main']
        parse = main.__globals__['parse_args']  # of tools/, or of the module behind a thin entry
        try:
            return parse()
        except SystemExit:
            pytest.fail(f'{path.name} does not take {" ".join(words[2:])}')


# The rule. Nothing here may need data, a network or minutes, and nearly every command does, so none
# is carried out. `make TARGET` is given to make as `make -n TARGET`, which prints what it would do.
# The arguments of `python tools/NAME.py` are given to the tool's own parser, which refuses what the
# tool would refuse; a config that is named must exist, unless it is the reader's (CONFIG, my_*) or
# what an earlier command writes (work_dirs/). A shell script is run with a `python` that but says
# how it was started. A command of another kind fails: it wants a rule.
@pytest.mark.parametrize('words', ALL_COMMANDS)
def test_a_command_is_one_that_we_have(words, monkeypatch, tmp_path):
    if '--noise' in words:  # named noise, which the tools refuse where they cannot make it
        pytest.importorskip('imagecorruptions')
    if words[0] == 'make':
        assert {word for word in words[1:] if '=' not in word} <= targets_of_make()
        unset = ('MAKEFLAGS', 'MFLAGS', 'MAKEOVERRIDES', 'MAKELEVEL', 'PYTHON')
        env = {key: value for key, value in os.environ.items() if key not in unset}
        command = ['make', '-n', *words[1:]]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return
    if words[0].endswith('.sh'):  # what it would start
        for name in ('python', 'srun'):
            (tmp_path / name).write_text('#!/bin/sh\necho "$@"\n')
            (tmp_path / name).chmod(0o755)
        env = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
        done = subprocess.run(['bash', *words], cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        started = done.stdout.split()
        words = ['python', *started[next(i for i, w in enumerate(started) if w.endswith('.py')) :]]
    assert words[0] == 'python' and re.fullmatch(r'tools/\w+\.py', words[1]), 'a rule is missing'
    config = arguments_of(words, monkeypatch).config
    if config == 'CONFIG' or config.startswith('work_dirs/') or 'my_' in config:
        return
    if '::' in config:
        pytest.importorskip(config.split('::')[0])
        load_config(config)
    else:
        assert (ROOT / config).is_file()


def test_the_flag_starts_at_the_zoo_and_ends_where_the_next_command_looks(monkeypatch):
    pytest.importorskip('mmdet')
    monkeypatch.setenv('LOCAL_RANK', '0')  # the tool would set it, for all tests behind this one
    training = next(w for w in commands(README) if '--denoiserep' in w and '::' in w[2])
    testing = next(words for words in commands(README) if words[1] == 'tools/test.py')
    config = config_from_arguments(arguments_of(training, monkeypatch))
    assert is_denoiserep_config(config) and config.load_from.startswith('http')
    assert [str(Path(path).parent) for path in testing[2:]] == [config.work_dir] * 2


def test_targets_of_make_that_are_named_in_prose_exist():
    for path in PAGES:
        assert set(re.findall(r'`make ([a-z-]+)', prose(path))) <= targets_of_make(), path


def test_flags_that_are_named_in_prose_exist():
    sources = [
        path.read_text(encoding='utf-8')
        for folder in ('tools', 'experiments', 'mmdenoiserep/cli')
        for path in (ROOT / folder).rglob('*.py')
    ]
    flags = {flag for text in sources for flag in re.findall(r"'(--[a-z][\w-]*)'", text)}
    for path in PAGES:
        spans = re.findall(r'`((?:--|tools/)[^`\n]+)`', prose(path))
        named = re.findall(r'(?<!\S)--[a-z][\w-]*', ' '.join(spans))
        assert set(named) <= flags, path


# Pages


def test_the_readme_is_short():
    assert len(README.read_text(encoding='utf-8').splitlines()) <= 130


def anchors(path: Path) -> Set[str]:
    """The anchors that GitHub and Sphinx give to the headings of a page."""
    headings = re.findall(r'^#+ (.+)$', prose(path), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', h.strip().lower()).replace(' ', '-') for h in headings}


@pytest.mark.parametrize('path', [*PAGES, ROOT / 'CHANGELOG.md'], ids=by_name)
def test_links_lead_somewhere(path):
    for target in re.findall(r'\]\(([^)]+)\)', prose(path)):
        if re.match(r'https?://', target):
            continue
        file, _, anchor = target.partition('#')
        other = (path.parent / file).resolve() if file else path
        assert other.exists(), target
        if anchor:
            assert anchor in anchors(other), target


@pytest.mark.parametrize('path', PAGES, ids=by_name)
def test_files_that_are_named_exist(path):
    folders = 'configs|demo|docs|experiments|mmdenoiserep|projects|requirements|scripts|tests|tools'
    for name in re.findall(rf'`((?:{folders})/[\w./*-]+)`', prose(path)):
        assert 'my_' in name or any(ROOT.glob(name.rstrip('/'))), name


def test_the_table_of_all_models_is_that_of_their_tables():
    page = (ROOT / 'docs' / 'deployment.md').read_text(encoding='utf-8')
    draw = runpy.run_path(str(ROOT / 'docs' / 'draw_deployment.py'))
    table = draw['overview'](draw['tables'](page))
    assert table in page, f'docs/deployment.md has another table than this:\n{table}'


def test_every_page_is_in_the_index():
    index = prose(ROOT / 'docs' / 'index.md')
    pages = {path.name for path in (ROOT / 'docs').glob('*.*') if path.suffix in ('.md', '.rst')}
    assert pages - {'index.md'} == set(re.findall(r'\]\(([\w-]+\.(?:md|rst))\)', index))


def test_the_reference_has_all_that_the_package_offers():
    reference = (ROOT / 'docs' / 'api.rst').read_text(encoding='utf-8')
    entry = r'^\.\. auto(?:class|function):: mmdenoiserep\.(\w+)$'
    documented = set(re.findall(entry, reference, re.MULTILINE))
    assert documented == set(mmdenoiserep.__all__) - {'__version__'}
    named = r'^\.\. automodule:: ([\w.]+)\n +:members: (.+)$'
    for module, members in re.findall(named, reference, re.MULTILINE):
        for member in members.split(', '):
            assert hasattr(importlib.import_module(module), member), f'{module}.{member}'


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    assert citation['version'] == mmdenoiserep.__version__
    changes = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    assert f'## [{mmdenoiserep.__version__}]' in changes
