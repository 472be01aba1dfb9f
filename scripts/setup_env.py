#!/usr/bin/env python3
"""Set up a virtual environment for mmdenoiserep, or check one that is already there.

    python3 scripts/setup_env.py create .venv
    python3 scripts/setup_env.py create .venv-classic --line classic
    /path/to/python scripts/setup_env.py check --tests

mmcv is compiled against the torch that is installed. pip's wheel cache does not know that, so built
wheels are kept in folders of their own: one for each torch, Python and mmcv.
"""

import argparse
import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# line -> its requirements, the oldest and the newest Python that it runs on
LINES = {
    'default': (('build', 'mminstall'), (3, 10), (3, 14)),
    'classic': (('classic',), (3, 8), (3, 11)),
}
COMMON = ('runtime', 'tests', 'optional')
# what is imported -> how to get it
TORCH = 'torch and torchvision of one build, see https://pytorch.org/get-started'
BUILD_MMCV = (
    'pip install --no-cache-dir --no-build-isolation --no-deps --force-reinstall onedl-mmcv'
)
REMEDIES = {
    'torch': TORCH,
    'torchvision': TORCH,
    **{name: f'pip install {name}' for name in ('greenlet', 'numpy', 'matplotlib', 'rich')},
    'mmengine': 'pip install onedl-mmengine',
    'mmcv.ops': BUILD_MMCV,
    'mmdet.apis': 'pip install onedl-mmdetection',
    'mmseg.apis': 'pip install onedl-mmsegmentation',
    'mmpretrain.apis': 'pip install onedl-mmpretrain',
    'imagecorruptions': 'pip install imagecorruptions-imaug',
}
TEST_REMEDIES = {
    **{name: f'pip install {name}' for name in ('pytest', 'hypothesis')},
    'sklearn': 'pip install scikit-learn',
}
# in the text of an error -> what it means
HINTS = {
    'undefined symbol': 'compiled against another torch than the one that is installed',
    'nms does not exist': 'torch and torchvision are of different builds',
    'libGL': 'a system library that OpenCV needs (Debian: apt-get install libgl1)',
}


def say(text):
    print(f'[set-up] {text}', flush=True)


def stop(text):
    sys.exit(f'[set-up] {text}')


def spell(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f'{minutes} min {seconds} s' if minutes else f'{seconds} s'


def step(text, command, **env):
    """Run a command. What it prints is shown only if it fails; each minute shows a sign of life."""
    say(text)
    start = time.monotonic()
    with tempfile.TemporaryFile('w+', errors='replace') as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **env}
        )
        status = None
        while status is None:
            try:
                status = process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                say(f'  … {spell(time.monotonic() - start)}')
        if status:
            log.seek(0)
            print(''.join(log.readlines()[-60:]), file=sys.stderr)
            stop(f'failed: {" ".join(command)}')
    say(f'  done in {spell(time.monotonic() - start)}')


def pip(text, *arguments, **env):
    step(text, [sys.executable, '-m', 'pip', '--disable-pip-version-check', *arguments], **env)


def requirements(*names):
    """Distribution name -> its line in ``requirements/<name>.txt``."""
    found = {}
    for name in names:
        text = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8')
        for line in text.splitlines():
            line = line.split('#')[0].strip()
            if line:
                found[re.split(r'[<>=!~;\[ ]', line)[0]] = line
    return found


def installed(name):
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def nvcc_fits(torch):
    """Whether there is an nvcc of the CUDA release that torch was built with: torch demands it."""
    from torch.utils.cpp_extension import CUDA_HOME

    nvcc = Path(CUDA_HOME or '', 'bin', 'nvcc')
    if CUDA_HOME is None or not nvcc.exists():
        return False
    release = re.search(r'release (\d+)\.', subprocess.getoutput(f'"{nvcc}" --version'))
    return release is not None and release.group(1) == torch.version.cuda.split('.')[0]


def operators(torch):
    """What mmcv's own detection would build: 'cpu', 'hip', or 'cuda' and the architectures."""
    if torch.version.hip:
        return 'hip'
    if not (torch.cuda.is_available() or os.environ.get('FORCE_CUDA') == '1'):
        return 'cpu'
    if not nvcc_fits(torch):
        say(f'no nvcc of CUDA {torch.version.cuda}: mmcv gets no operators for the GPU')
        return 'cpu'
    cards = map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))
    archs = os.environ.get('TORCH_CUDA_ARCH_LIST') or '-'.join(
        sorted({f'{major}.{minor}' for major, minor in cards})
    )
    return 'cuda' + re.sub(r'[^\w.+]+', '-', archs)


def wheel_key(name, version, torch_version, ops):
    """The name of the folder for mmcv's wheel. All that its operators depend on is in it."""
    python = f'cp{sys.version_info[0]}{sys.version_info[1]}{getattr(sys, "abiflags", "")}'
    return f'{name.replace("-", "_")}-{version}_torch-{torch_version}_{python}_{ops}'


def build_wheel(requirement, folder, torch_version, ops):
    """Compile mmcv into ``folder``, which appears complete or not at all."""
    compiler = os.environ.get('CXX', 'c++')
    if not shutil.which(compiler.split()[0]):
        stop(f'mmcv compiles C++, and there is no {compiler} (Debian: apt-get install g++)')
    if not Path(sysconfig.get_path('include'), 'Python.h').exists():
        stop("mmcv compiles against Python's headers (Debian: apt-get install python3-dev)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    env = {
        # Debug symbols double the time and are nine tenths of the result.
        'CFLAGS': f'{os.environ.get("CFLAGS", "")} -g0'.strip(),
        'MAX_JOBS': os.environ.get('MAX_JOBS', str(cores)),
        # ninja, which compiles in parallel, is looked for on the PATH only.
        'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', '')]),
    }
    if ops == 'cpu':  # also where there is a GPU but no nvcc for it
        env.update(CUDA_VISIBLE_DEVICES='', FORCE_CUDA='0')
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.building-', dir=str(folder.parent)) as scratch:
        built = Path(scratch, 'wheel')
        about = 'about 7 minutes on 2 cores' if ops == 'cpu' else 'tens of minutes'
        pip(
            f"building mmcv's operators ({ops}) against torch {torch_version} for Python "
            f'{platform.python_version()}: {about}, once; cached in {folder}',
            *('wheel', '--no-deps', '--no-cache-dir', '--no-build-isolation'),
            *('--wheel-dir', str(built), requirement),
            **env,
        )
        try:
            built.rename(folder)
        except OSError:
            if not any(folder.glob('*.whl')):  # else another set-up was faster
                raise


def install_mmcv(name, requirement):
    """Install the mmcv that was built against this very torch; build it first if need be."""
    importlib.invalidate_caches()
    import torch

    ops = operators(torch)
    key = wheel_key(name, requirement.split('==')[1], torch.__version__, ops)
    mark = Path(sys.prefix, 'mmcv-build')
    if installed(name) and mark.exists() and mark.read_text().strip() == key:
        return
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    folder = cache / 'mmdenoiserep' / 'wheels' / key
    if not any(folder.glob('*.whl')):
        build_wheel(requirement, folder, torch.__version__, ops)
    wheel = next(folder.glob('*.whl'))
    pip(f'installing {wheel}', 'install', '--no-deps', '--force-reinstall', str(wheel))
    mark.write_text(key + '\n')


def install_package():
    options = ['--no-deps', '--editable', str(ROOT)]
    if installed('setuptools') and installed('wheel'):  # else pip fetches them for the build
        options.append('--no-build-isolation')
    pip('installing mmdenoiserep itself, editable', 'install', *options)


def check(remedies):
    """Import what is needed, in a process of its own, and say how to get what is missing."""
    code = (
        'import importlib, sys, warnings\n'
        'warnings.simplefilter("ignore")\n'
        'for name in sys.argv[1:]:\n'
        '    try:\n'
        '        importlib.import_module(name)\n'
        '    except Exception as error:\n'
        '        cause = getattr(error, "name", None) or name\n'
        '        print("MISSING", cause.split(".")[0], name, " ".join(repr(error).split())[:300])\n'
    )
    # Away from the repository: what lies in its root must not stand in for what is installed.
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, '-c', code, *remedies]
        out = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if out.returncode:
        stop(f'importing {", ".join(remedies)} crashed {sys.executable}:\n{out.stderr[-2000:]}')
    lines, causes = [], set()
    by_cause = {name.split('.')[0]: remedy for name, remedy in remedies.items()}
    for line in out.stdout.splitlines():
        if line.startswith('MISSING '):
            _, cause, name, error = line.split(' ', 3)
            if cause not in causes:  # what others fail with, too, is said once
                remedy = by_cause.get(cause, f'pip install {cause}')
                lines += [f'  {name}: {error}', f'      remedy: {remedy}']
                lines += [f'      {hint}' for text, hint in HINTS.items() if text in error]
            causes.add(cause)
    if lines:
        lines.insert(0, f'{sys.executable} cannot import what mmdenoiserep runs on:')
        lines.append('requirements/ names the versions that are tested.')
        stop('\n'.join(lines))


def enter(venv, line):
    """Make the virtual environment if there is none, and go on in it."""
    _, oldest, newest = LINES[line]
    python = venv / 'bin' / 'python'
    if not python.exists() and not oldest <= sys.version_info[:2] <= newest:
        variable = 'PYTHON_BASE_CLASSIC' if line == 'classic' else 'PYTHON_BASE'
        stop(
            f'the {line} line needs Python {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}, and '
            f'{sys.executable} is {platform.python_version()}: {variable}=/path/to/python'
        )
    if not any(venv.glob('bin/pip*')):  # none yet, or its creation was interrupted
        create = [sys.executable, '-m', 'venv', str(venv)]
        step(f'creating {venv} with Python {platform.python_version()}', create)
    os.execv(str(python), [str(python), __file__, 'create', str(venv), '--line', line])


def create(venv, line):
    if Path(sys.prefix).resolve() != venv.resolve():
        enter(venv, line)
    wanted = requirements(*LINES[line][0])
    torch_pin = wanted['torch']
    torch, vision = installed('torch'), installed('torchvision')
    about = 'torch and torchvision (some GB where they come with CUDA), and '
    if torch and torch.split('+')[0] != torch_pin.split('==')[1]:
        if not vision:
            stop(f'{venv} has torch {torch} but no torchvision: install the one of the same build')
        say(f'keeping torch {torch}, which {venv} has; requirements/ names {torch_pin}')
    if torch and vision:
        del wanted['torch'], wanted['torchvision']
        about = ''
    tools = [text for name, text in wanted.items() if not re.match(r'(onedl-)?mm', name)]
    pip(f'installing {about}the tools that build mmcv', 'install', *tools)
    mmcv = next(name for name in wanted if name.endswith('mmcv'))
    install_mmcv(mmcv, wanted[mmcv])
    rest = {**requirements(*COMMON), **wanted}  # a line's own pins win
    text = f'installing the {line} line of OpenMMLab and the tools of the tests'
    pip(text, 'install', '--no-build-isolation', *rest.values())
    install_package()
    check({**REMEDIES, **TEST_REMEDIES})
    say(f'{venv} is ready')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest='command', required=True)
    creating = commands.add_parser('create', help='a virtual environment with everything in it')
    creating.add_argument('venv', type=Path)
    creating.add_argument('--line', choices=sorted(LINES), default='default')
    checking = commands.add_parser('check', help='this interpreter; install the package in it')
    checking.add_argument('--tests', action='store_true', help='what the tests need, too')
    args = parser.parse_args()
    if args.command == 'create':
        create(args.venv, args.line)
    else:
        check({**REMEDIES, **(TEST_REMEDIES if args.tests else {})})
        install_package()


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        stop('interrupted; the next run takes it up again')
