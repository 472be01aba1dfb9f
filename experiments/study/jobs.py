"""One training or calibration of a study and its evaluation, in a folder of its own."""

import hashlib
import json
import os
import os.path as osp
import time
from pathlib import Path
from typing import Any, Dict, NamedTuple, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner
from torch import nn

from experiments.tasks import REID, task_of, tested_on
from mmdenoiserep import __version__, calibrate_checkpoint
from mmdenoiserep.stock.checkpoint import (
    first_of,
    load_checkpoint_file,
    load_exactly,
    weights_of,
)
from mmdenoiserep.stock.config import text_of, to_stock_config, without_sync_norms
from mmdenoiserep.stock.files import atomic_write
from mmdenoiserep.stock.model import build_model
from mmdenoiserep.stock.sources import read_weights_only

from . import classification, detection, reidentification, segmentation

#: What can be measured; see :func:`experiments.tasks.task_of`.
TASKS = {
    'mmpretrain': classification,
    'mmseg': segmentation,
    'mmdet': detection,
    REID: reidentification,
}


class Job(NamedTuple):
    """What a process is to do.

    Attributes:
        folder (str): Where everything goes.
        config (str): The arm's config file.
        kind (str): 'baseline' or one of :data:`.arms.KINDS`.
        seed (int): Of training.
        parent (str): Folder of the job whose result this one starts from, or ''.
        splits (tuple[str]): Of 'val' and 'test': what to evaluate on.
    """

    folder: str
    config: str
    kind: str
    seed: int
    parent: str = ''
    splits: Tuple[str, ...] = ('val',)

    def fingerprint(self) -> str:
        """Of what is asked for and of the release that does it: no stale result is taken up.

        Not of images, nor of the code between releases: remove the folder for those.
        """
        text = Path(self.config).read_text() + f'{self.kind} {self.seed} {__version__}'
        if self.parent:
            text += read_record(self.parent)['fingerprint']
        return hashlib.sha256(text.encode()).hexdigest()

    def missing(self) -> Tuple[str, ...]:
        """What is still to do: of 'train', 'val' and 'test'."""
        record = read_record(self.folder)
        if record.get('fingerprint') != self.fingerprint() or not osp.isfile(record['checkpoint']):
            return ('train', *self.splits)
        return tuple(s for s in self.splits if not osp.isfile(statistics_file(self.folder, s)))

    def run(self) -> None:
        """Do what is missing of a job; complete or not at all, part by part."""
        read_weights_only()  # this is a process of its own
        todo = self.missing()
        if 'train' in todo:
            # Of an earlier config:
            Path(self.folder, 'done.json').unlink(missing_ok=True)
            for split in ('val', 'test'):
                Path(statistics_file(self.folder, split)).unlink(missing_ok=True)
            begin = time.perf_counter()
            checkpoint, config = _train(self)
            write_json(
                osp.join(self.folder, 'done.json'),
                dict(
                    fingerprint=self.fingerprint(),
                    checkpoint=checkpoint,
                    config=config,
                    seconds=time.perf_counter() - begin,
                ),
            )
        record = read_record(self.folder)
        for split in todo:
            if split != 'train':
                config, own = Config.fromfile(record['config']), Config.fromfile(self.config)
                # A stock config lacks what only our metrics know.
                config.val_evaluator, config.test_evaluator = own.val_evaluator, own.test_evaluator
                arrays = evaluate(config, record['checkpoint'], split)
                with atomic_write(statistics_file(self.folder, split)) as file:
                    np.savez(file, **arrays)


def read_record(folder: str) -> Dict[str, Any]:
    """What a finished job has noted: its fingerprint, checkpoint, config and seconds; or {}."""
    path = Path(folder, 'done.json')
    return json.loads(path.read_text()) if path.is_file() else {}


def statistics_file(folder: str, split: str) -> str:
    """Where the statistics of a split's images are."""
    return osp.join(folder, f'{split}.npz')


def evaluate(config: Config, checkpoint: str, split: str) -> Dict[str, np.ndarray]:
    """The statistics of each image of a split; see ``collect`` of the task."""
    config = tested_on(config, split)
    return task_of(config, TASKS).collect(load_model(config, checkpoint), config)


def load_model(config: Config, checkpoint: str) -> nn.Module:
    """A config's model with the weights of a checkpoint, ready to be measured.

    Raises:
        ValueError: If they do not fit to the last key.
    """
    model = build_model(config)
    weights = weights_of(load_checkpoint_file(checkpoint), checkpoint)
    unexpected = load_exactly(model, weights, checkpoint)
    if unexpected:
        raise ValueError(f'{checkpoint} is not of the config: it has {first_of(unexpected)}')
    return model.to(get_device()).eval()


def _train(job: Job) -> Tuple[str, str]:
    """The checkpoint and the config to evaluate: of the stock model, wherever there is one."""
    config = Config.fromfile(job.config)
    config.work_dir = job.folder
    config.load_from = read_record(job.parent)['checkpoint'] if job.parent else None
    config.randomness = dict(seed=job.seed)
    config.experiment_name = osp.basename(job.folder)
    fused = osp.join(job.folder, 'fused.pth')
    if job.kind == 'closed-form':
        torch.manual_seed(job.seed)
        options = dict(config.get('calibration') or {}, seed=job.seed, fuse=True, force=True)
        calibrate_checkpoint(config, config.load_from, fused, **options)
        return fused, fused[: -len('.pth')] + '.py'
    if job.kind != 'baseline':
        # The curve is the baseline's; an arm is measured once, at its end.
        config.val_dataloader = config.val_cfg = config.val_evaluator = None
    runner = Runner.from_cfg(without_sync_norms(config))
    runner.train()
    if job.kind == 'denoiserep':
        _with_evaluation(Config.fromfile(job.config), fused[: -len('.pth')] + '.py', stock=True)
        return fused, fused[: -len('.pth')] + '.py'
    path = osp.join(job.folder, 'evaluation.py')
    _with_evaluation(Config.fromfile(job.config), path, stock=False)
    return runner.message_hub.get_info('last_ckpt'), path


def _with_evaluation(config: Config, path: str, stock: bool) -> None:
    # The hook's fused.py lacks the validation that was taken out above.
    config = to_stock_config(config) if stock else config
    with atomic_write(path) as file:
        file.write(text_of(config).encode())


def write_json(path: str, content: dict) -> None:
    """Write a file, all or nothing."""
    os.makedirs(osp.dirname(path), exist_ok=True)
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=1).encode())
