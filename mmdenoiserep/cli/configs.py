"""Configs as the tools take them: loaded, given denoisers, overridden."""

import argparse
import ast
import difflib
import inspect
import os
import os.path as osp
import re
from contextlib import suppress
from logging import WARNING
from pathlib import Path
from typing import Callable, Optional, Sequence

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hub import get_config
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..apis.measured_config import schedule_of, set_optimizer, set_schedule, to_measured_config
from ..stock.config import (
    is_denoiserep_config,
    to_denoiserep_config,
    type_name,
    with_named_types,
    without_sync_norms,
)
from ..stock.packages import is_installed

SUFFIXES = ('.py', '.json', '.yaml', '.yml')
#: Keys that a config may have besides those of MMEngine's Runner.
FURTHER = ('tta_model', 'tta_pipeline', 'runner_type', 'custom_imports', 'model_wrapper_cfg')
#: What a launcher sets for each of its processes.
LAUNCHER_VARIABLES = dict(
    pytorch=('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
    slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
    mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
)
LAUNCHED_BY = dict(
    pytorch='torchrun --nproc_per_node=N tools/... --launcher pytorch',
    slurm='srun',
    mpi='mpirun',
)


def load_config(path: str) -> Config:
    """Load a config file, or one of an installed package as ``mmdet::folder/name.py``.

    The types of new-style (lazy import) configs become names.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If it cannot be read. Both in one line.
    """
    package = path.split('::')[0] if '::' in path else None
    if package is None:
        _check_file(path)
    elif not is_installed(package):
        raise ValueError(f'{path}: no package {package} of OpenMMLab is installed')
    elif re.fullmatch(r'\w+::[^:]+/[^:]+\.py', path) is None:
        raise ValueError(f'{path} names no config; give it as {package}::folder/name.py')
    try:
        config = get_config(path) if package else Config.fromfile(path)
    except FileNotFoundError as error:
        if package:
            raise FileNotFoundError(f'there is no config {path}: {package} has none') from None
        missing = error.filename or str(error)
        raise FileNotFoundError(f'{path} is based on {missing}, which is not there') from None
    except Exception as error:  # a config is code, and may raise anything
        raise ValueError(f'{path} cannot be read as a config: {_words(error)}') from error
    return with_named_types(config)


def load_denoiserep_config(
    path: str, targets: Optional[Sequence[str]] = None, options: Optional[dict] = None
) -> Config:
    """Load a DenoiseRep config, or make one of a stock config; then override settings.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If ``targets`` are given for a DenoiseRep config, which has its own, or the
            stock config cannot be given denoisers.
    """
    return _with_denoisers(path, to_denoiserep_config, targets, options)


def load_measured_config(
    path: str, targets: Optional[Sequence[str]] = None, options: Optional[dict] = None
) -> Config:
    """The same with denoisers of measured noise."""
    return _with_denoisers(path, to_measured_config, targets, options)


def _with_denoisers(
    path: str,
    make: Callable[..., Config],
    targets: Optional[Sequence[str]],
    options: Optional[dict],
) -> Config:
    config = load_config(path)
    if not is_denoiserep_config(config):
        config = make(config, targets=targets)
    elif targets:
        raise ValueError(f'{path} has denoisers already, with targets of its own')
    if options:
        merge(config, options)
    return config


def config_from_arguments(args: argparse.Namespace) -> Config:
    """The config that ``args`` name, with their overrides, work folder and launcher.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If it cannot be read, or be given denoisers.
    """
    check_launcher(args.launcher)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    config = load_config(args.config)
    denoiserep = getattr(args, 'denoiserep', False)
    if denoiserep:
        try:
            make = to_measured_config if args.noise else to_denoiserep_config
            config = make(config, targets=args.targets)
        except ValueError as error:
            raise ValueError(f'{args.config}: {error}') from None
        # Of a stock training that wrote the config: its folder is not for this one.
        config.pop('work_dir', None)
        config.pop('experiment_name', None)
        config.resume = False
        if args.mode:
            config.custom_hooks[0].mode = args.mode
        if args.noise:
            config.custom_hooks[0].update(noise=list(args.noise), init='calibrated')
            if args.keep_clean is not None:
                config.custom_hooks[0].keep_clean = args.keep_clean
            set_optimizer(config)
        elif args.keep_clean is not None:
            raise ValueError('--keep-clean goes with --noise')
    elif any(
        getattr(args, name, None) not in (None, ())
        for name in ('targets', 'mode', 'noise', 'keep_clean')
    ):
        raise ValueError(
            '--targets, --mode, --noise and --keep-clean go with --denoiserep; a DenoiseRep config '
            'has its own, which --cfg-options custom_hooks.0.mode=... and the like override'
        )
    config.launcher = args.launcher
    if args.cfg_options:
        schedule = schedule_of(config)
        # In a config that tools/calibrate.py wrote, too.
        ours = bool(schedule) and config.get('param_scheduler') == schedule
        ours = ours or bool(denoiserep and args.noise)
        merge(config, args.cfg_options)
        if ours and not any(key.startswith('param_scheduler') for key in args.cfg_options):
            set_schedule(config)  # by the length that it has now
    if not isinstance(config.get('model'), dict) or not config.model.get('type'):
        raise ValueError(f'{args.config} has no model')
    resumed = getattr(args, 'resume', None) not in (None, 'auto')
    if denoiserep and not resumed and 'load_from' not in (args.cfg_options or {}):
        config.load_from = _checkpoint_of(args.config, config)
    _full_precision_without_gpu(config)
    if config.launcher == 'none':
        config = without_sync_norms(config)
    if args.work_dir:
        config.work_dir = args.work_dir
    elif config.get('work_dir') is None:
        config.work_dir = osp.join('work_dirs', Path(config.filename).stem)
    return config


def merge(config: Config, options: dict) -> None:
    """Override settings of a config.

    Raises:
        ValueError: If a key leads through something that has no keys, or is nearly one that the
            config has.
    """
    for key in {option.split('.')[0] for option in options} - set(config):
        known = {*config, *inspect.signature(Runner.__init__).parameters, *FURTHER}
        meant = difflib.get_close_matches(key, known, 1, cutoff=0.8)
        if meant and key not in known:
            raise ValueError(f'--cfg-options: the config has no {key!r}; {meant[0]!r} is meant?')
    try:
        config.merge_from_dict(options)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f'--cfg-options do not fit the config: {_words(error)}') from error


def check_launcher(launcher: str) -> None:
    """Refuse a launcher that has not launched this process, or that has no GPU to give it.

    Raises:
        ValueError: In one line.
    """
    missing = [v for v in LAUNCHER_VARIABLES.get(launcher, ()) if v not in os.environ]
    if missing:
        raise ValueError(
            f'--launcher {launcher}, but {missing[0]} is not set: start with '
            f'{LAUNCHED_BY[launcher]}, or leave the flag out'
        )
    if launcher != 'none' and get_device() == 'cpu':
        raise ValueError(f'--launcher {launcher} gives each process a GPU, and there is none')


def _check_file(path: str) -> None:
    """Refuse what cannot be a config, with more words than an error of Python's has."""
    if osp.isdir(path):
        raise ValueError(f'{path} is a folder; give a config file in it')
    if not osp.exists(path):
        raise FileNotFoundError(f'there is no config {path}')
    if not path.endswith(SUFFIXES):
        raise ValueError(f'{path} is no config: it is none of {", ".join(SUFFIXES)}')
    try:
        text = Path(path).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is no text in UTF-8 (byte {error.start})') from None
    if not text.strip():
        raise ValueError(f'{path} is empty')
    if path.endswith('.py'):
        try:
            ast.parse(text)
        except (SyntaxError, ValueError) as error:
            line = f', line {error.lineno}' if isinstance(error, SyntaxError) else ''
            raise ValueError(f'{path}{line}: {_words(error)}') from None


def _words(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        code = (error.text or '').strip()
        return f'{error.msg}{": " if code else ""}{code}'
    if isinstance(error, ImportError) and isinstance(error.__cause__, ImportError):
        cause: BaseException = error  # MMEngine's first words are of what the path is
        while isinstance(cause.__cause__ or cause.__context__, ImportError):
            cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
        return f'{cause} (custom_imports); is it in PYTHONPATH or the current folder?'
    lines = str(error).strip().splitlines() or ['']
    kind = '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
    return f'{kind}{lines[0][:200]}'


def _full_precision_without_gpu(config: Config) -> None:
    wrapper = config.get('optim_wrapper') or {}
    if type_name(wrapper) == 'AmpOptimWrapper' and get_device() == 'cpu':
        print_log('no GPU: training in float32 and not with AmpOptimWrapper', 'current', WARNING)
        wrapper['type'] = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)


def _checkpoint_of(path: str, config: Config) -> str:
    """The model's weights: in the zoo, or where a config of the user's says.

    What a package's config loads itself is what its training begins with, not what it comes to.
    """
    if '::' in path:
        with suppress(AssertionError):  # MMEngine's, where the metafile names none
            weights = get_config(path, pretrained=True).get('model_path')
            if weights:
                return weights
    elif config.get('load_from'):
        return config.load_from
    raise ValueError(
        f'{path} names no checkpoint, and denoisers need a trained model: give the stock '
        'checkpoint as --cfg-options load_from=PATH, or load_from=None if the initial weights '
        'of the config are meant'
    )
