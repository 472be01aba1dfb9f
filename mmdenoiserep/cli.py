"""What the command-line tools share: OpenMMLab's usual flags and what they do to a config."""

import argparse
import os
import os.path as osp
from contextlib import suppress
from logging import WARNING
from pathlib import Path
from typing import Optional, Sequence

from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.hub import get_config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from .hooks.denoiserep_hook import MODES
from .stock.config import is_denoiserep_config, to_denoiserep_config, without_sync_norms
from .stock.packages import is_installed


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that training and testing have in common."""
    parser.add_argument('--work-dir', help='folder for logs, checkpoints and results')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, as key=value; nested keys as a.b.0.c=value, '
        'lists as key="[a,b]" or key=a,b, tuples as key="[(a,b),(c,d)]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch passes it with a hyphen, older releases with an underscore.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def add_denoiserep_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that make a DenoiseRep config of a stock one."""
    group = parser.add_argument_group('training of denoisers with a stock config')
    group.add_argument(
        '--denoiserep',
        action='store_true',
        help='put denoisers into the backbone of a stock config, given by its path or as '
        'mmdet::folder/name.py, and start from its checkpoint in the model zoo',
    )
    group.add_argument(
        '--targets',
        nargs='+',
        metavar='REGEX',
        help='the layers to denoise, by patterns that match their names in full',
    )
    group.add_argument('--mode', choices=MODES, help='how denoisers train (default: label-aug)')


def load_config(path: str) -> Config:
    """Load a config file, or one of an installed package as ``mmdet::folder/name.py``.

    Raises:
        SystemExit: If there is no such config.
    """
    package = path.split('::')[0] if '::' in path else None
    if package and not is_installed(package):
        raise SystemExit(f'{path}: no package {package} of OpenMMLab is installed')
    try:
        return get_config(path) if package else Config.fromfile(path)
    except FileNotFoundError as error:
        raise SystemExit(f'there is no config {path} ({error})') from None


def load_denoiserep_config(
    path: str, targets: Optional[Sequence[str]] = None, options: Optional[dict] = None
) -> Config:
    """Load a DenoiseRep config, or make one of a stock config; then override settings.

    Raises:
        ValueError: If ``targets`` are given for a DenoiseRep config, which has its own, or the
            stock config cannot be given denoisers.
    """
    config = load_config(path)
    if not is_denoiserep_config(config):
        config = to_denoiserep_config(config, targets=targets)
    elif targets:
        raise ValueError(f'{path} has denoisers already, with targets of its own')
    if options:
        config.merge_from_dict(options)
    return config


def config_from_arguments(args: argparse.Namespace) -> Config:
    """The config that ``args`` name, with their overrides, work folder and launcher.

    Raises:
        SystemExit: If the config cannot be had, or cannot be given denoisers.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    config = load_config(args.config)
    denoiserep = getattr(args, 'denoiserep', False)
    if denoiserep:
        try:
            config = to_denoiserep_config(config, targets=args.targets)
        except ValueError as error:
            raise SystemExit(f'{args.config}: {error}') from None
        if args.mode:
            config.custom_hooks[0].mode = args.mode
    elif getattr(args, 'targets', None) or getattr(args, 'mode', None):
        raise SystemExit(
            '--targets and --mode go with --denoiserep; a DenoiseRep config has its own, which '
            '--cfg-options model.backbone.targets=... custom_hooks.0.mode=... override'
        )
    config.launcher = args.launcher
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    if denoiserep and 'load_from' not in (args.cfg_options or {}):
        config.load_from = config.get('load_from') or _zoo_checkpoint(args.config)
    _full_precision_without_gpu(config)
    if config.launcher == 'none':
        config = without_sync_norms(config)
    if args.work_dir:
        config.work_dir = args.work_dir
    elif config.get('work_dir') is None:
        config.work_dir = osp.join('work_dirs', Path(config.filename).stem)
    return config


def build_runner(config: Config) -> Runner:
    """The runner of a config, of its ``runner_type`` where it names one.

    Raises:
        SystemExit: If ``load_from`` names a local file that does not exist.
    """
    checkpoint = config.get('load_from')
    if checkpoint and '://' not in checkpoint and not osp.isfile(checkpoint):
        raise SystemExit(
            f'load_from: there is no checkpoint {checkpoint}; give the stock one, with '
            '--cfg-options load_from=PATH when training'
        )
    return RUNNERS.build(config) if 'runner_type' in config else Runner.from_cfg(config)


def _full_precision_without_gpu(config: Config) -> None:
    wrapper = config.get('optim_wrapper') or {}
    if wrapper.get('type') == 'AmpOptimWrapper' and get_device() == 'cpu':
        print_log('no GPU: training in float32 and not with AmpOptimWrapper', 'current', WARNING)
        wrapper.type = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)


def _zoo_checkpoint(path: str) -> str:
    weights = None
    if '::' in path:
        with suppress(AssertionError):  # MMEngine's, where the metafile names none
            weights = get_config(path, pretrained=True).get('model_path')
    if weights is None:
        raise SystemExit(
            f'{path} names no checkpoint, and denoisers need a trained model: give the stock '
            'checkpoint as --cfg-options load_from=PATH, or load_from=None if the initial weights '
            'of the config are meant'
        )
    return weights
