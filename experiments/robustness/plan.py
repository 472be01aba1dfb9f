"""What a run is to measure, checked before any of it is: configs, checkpoints, noise, images."""

import argparse
import hashlib
import json
import os.path as osp
import re
from pathlib import Path
from types import ModuleType
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from mmengine.config import Config
from torch import Tensor, nn

from experiments.tasks import REID, check_task, evaluators_of, task_of, tested_on
from mmdenoiserep import __version__
from mmdenoiserep.cli import load_config
from mmdenoiserep.cli.configs import merge
from mmdenoiserep.stock.checkpoint import (
    first_of,
    load_checkpoint_file,
    load_exactly,
    weights_of,
)
from mmdenoiserep.stock.config import is_denoiserep_config, without_sync_norms
from mmdenoiserep.stock.model import build_model

from . import classification, detection, reidentification, segmentation
from .cache import noise_version
from .images import LEAST_SIDE, read_images, stamp
from .noises import CLEAN, SEED, Noise, check_transform, read_noises, with_noise

#: What is measured; see :func:`experiments.tasks.task_of`.
TASKS = {
    'mmdet': detection,
    'mmseg': segmentation,
    'mmpretrain': classification,
    REID: reidentification,
}


class Checkpoint(NamedTuple):
    """A checkpoint that fits the config.

    Attributes:
        name (str): In tables; no two have the same.
        path (str): The file.
        digest (str): SHA-256 of the file.
        weights (dict[str, Tensor]): Its state dict.
    """

    name: str
    path: str
    digest: str
    weights: Dict[str, Tensor]


class Plan(NamedTuple):
    """What :func:`read_plan` has checked.

    Attributes:
        config (Config): The stock config.
        model (nn.Module): Its model, on the CPU.
        checkpoints (list[Checkpoint]): The first is what the others are compared with.
        noises (list[Noise]): All that is measured: without noise first.
        root (str): Folder of all results.
        cache (str): Folder of the corrupted images, or '' for none.
        dataset (Dataset): The clean test images.
        paths (list[str]): Their files.
        num_bytes (int): Of the images of one corruption and severity, uncompressed.
        fingerprint (str): Of the images and of how they are loaded.
        noise_files (dict[Noise, list]): What tells the files that a transform reads from others.
    """

    config: Config
    model: nn.Module
    checkpoints: List[Checkpoint]
    noises: List[Noise]
    root: str
    cache: str
    dataset: object
    paths: List[str]
    num_bytes: int
    fingerprint: str
    noise_files: Dict[Noise, List[Tuple[int, int]]]

    @property
    def task(self) -> ModuleType:
        """The module that measures."""
        return task_of(self.config, TASKS)

    def dataset_with(self, noise: Noise) -> dict:
        """The config of the test set with a noise behind the transform that loads images."""
        return with_noise(self.config.test_dataloader.dataset, noise, self.cache)

    def statistics_file(self, checkpoint: Checkpoint, noise: Noise) -> str:
        """Where the statistics of a checkpoint under a noise are."""
        # Those of other settings stay: a look at a hundred images is not to cost the whole run.
        folder = f'{checkpoint.digest[:16]}-{self.fingerprint[:8]}'
        return osp.join(self.root, 'statistics', folder, f'{str(noise).replace(":", "-")}.npz')

    def fingerprint_of(self, checkpoint: Checkpoint, noise: Noise) -> str:
        """Of all that the statistics depend on, so that stale ones are not taken."""
        text = f'{self.fingerprint} {checkpoint.digest} {noise} {SEED}'
        text += '' if noise == CLEAN else noise_version()
        if noise.transform:
            text += f'{noise.transform} {self.noise_files[noise]}'
        return hashlib.sha256(text.encode()).hexdigest()


def read_plan(args: argparse.Namespace) -> Plan:
    """Check all that a run needs: nothing is measured before.

    Raises:
        ValueError: In one line, if something is unknown, does not fit or makes no sense.
        OSError: If a config, a checkpoint or an image is missing.
        ImportError: If `imagecorruptions` is missing.
    """
    noises = read_noises(args)
    missing = [path for path in args.checkpoints if not osp.isfile(path)]
    if missing:
        raise FileNotFoundError(f'there is no checkpoint {missing[0]}')
    config = read_config(args.config, args.cfg_options)
    # Loads what the scope registers, data sets among it.
    model = build_model(config).eval()
    checkpoints = read_checkpoints(args.checkpoints, model)
    least = LEAST_SIDE if any(not noise.transform for noise in noises) else 1
    images = read_images(config.test_dataloader, least=least)
    noise_files = {
        noise: check_transform(config.test_dataloader.dataset, noise, images.paths)
        for noise in noises
        if noise.transform
    }
    root = args.work_dir or osp.join('work_dirs', 'robustness', Path(args.config).stem)
    parts = {key: config.get(key) for key in ('model', 'data_preprocessor', 'test_evaluator')}
    parts['loader'] = {
        key: value
        for key, value in config.test_dataloader.items()
        if key not in ('num_workers', 'persistent_workers', 'prefetch_factor', 'pin_memory')
    }
    parts['files'] = [stamp(p) for p in (*images.paths, *label_files(config, images.infos))]
    parts['release'] = __version__  # that measures
    text = json.dumps([parts, images.infos], sort_keys=True, default=str)
    return Plan(
        config=config,
        model=model,
        checkpoints=checkpoints,
        noises=[CLEAN, *noises],
        root=root,
        cache='' if args.no_cache else osp.join(root, 'corrupted'),
        dataset=images.dataset,
        paths=images.paths,
        num_bytes=images.num_bytes,
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
        noise_files=noise_files,
    )


def label_files(config: Config, infos: Sequence[dict]) -> List[str]:
    """The files of labels that are read while testing: label maps, and the evaluator's."""
    maps = [info['seg_map_path'] for info in infos if info.get('seg_map_path')]
    return maps + [e['ann_file'] for e in evaluators_of(config) if e.get('ann_file')]


def read_config(path: str, options: Optional[dict]) -> Config:
    """The stock config that is measured in.

    Raises:
        ValueError: If it has denoisers, no test set, or a task that is not measured.
    """
    config = load_config(path)
    if options:
        merge(config, options)
    if is_denoiserep_config(config):
        raise ValueError(
            f'{path} has denoisers; give the stock config, and checkpoints fused by '
            'tools/fuse_ckpt.py'
        )
    task_of(config, TASKS)  # refuses
    if not config.get('test_dataloader'):
        raise ValueError(f'{path} has no test_dataloader, which names the images to test on')
    config = tested_on(without_sync_norms(config), 'test')
    check_task(config, TASKS)
    return config


def read_checkpoints(paths: Sequence[str], model: nn.Module) -> List[Checkpoint]:
    """Checkpoints that fit a model to the last key.

    Raises:
        ValueError: If one does not, or a file is named twice.
    """
    out: List[Checkpoint] = []
    files = [Path(path).absolute() for path in paths]
    for path, file in zip(paths, files):
        if files.count(file) > 1:
            raise ValueError(f'the checkpoint {path} is named twice')
        weights = weights_of(load_checkpoint_file(path), path)
        if any('parametrizations.weight' in key for key in weights):
            raise ValueError(
                f'{path} has denoisers, and the config is the stock one: fuse it first, with '
                f'python tools/fuse_ckpt.py CONFIG {path} OUT.pth'
            )
        unexpected = load_exactly(model, weights, path)
        if unexpected:
            raise ValueError(f'{path} does not match the config: it has {first_of(unexpected)}')
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        out.append(Checkpoint(name_in(files, file), path, digest, weights))
    return out


def name_in(files: Sequence[Path], file: Path) -> str:
    """As much of a path's end as tells it from the others."""
    others = [other.parts for other in files if other != file]
    for length in range(1, len(file.parts)):
        end = file.parts[-length:]
        if all(other[-length:] != end for other in others):
            break
    return re.sub(r'\.pth$', '', '/'.join(end))
