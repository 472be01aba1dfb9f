"""What the command-line tools share: OpenMMLab's usual flags and what they do to a config."""

import argparse
import os
import os.path as osp
from importlib import metadata

from mmengine.config import Config, DictAction
from mmengine.config import utils as config_utils
from mmengine.registry import RUNNERS
from mmengine.runner import Runner


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


def load_config(path: str) -> Config:
    """Load a config, with ``_base_ = 'mmseg::…'`` working on both lines of OpenMMLab."""
    # The maintained line ships mmseg in another distribution than MMEngine expects.
    packages = config_utils.MODULE2PACKAGE
    try:
        metadata.version(packages['mmseg'])
    except metadata.PackageNotFoundError:
        packages['mmseg'] = 'onedl-mmsegmentation'
    return Config.fromfile(path)


def config_from_arguments(args: argparse.Namespace) -> Config:
    """The config that ``args`` name, with their overrides, work folder and launcher."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    config = load_config(args.config)
    config.launcher = args.launcher
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    if args.work_dir:
        config.work_dir = args.work_dir
    elif config.get('work_dir') is None:
        config.work_dir = osp.join('work_dirs', osp.splitext(osp.basename(args.config))[0])
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
