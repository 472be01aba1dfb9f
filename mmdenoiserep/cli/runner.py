"""The runner of a config, which looks at what it is given before it works with it."""

import os
import os.path as osp
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, List, Optional, Sized, Type

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from ..apis.fit import check_fit
from ..conversion import denoisers
from ..network.state_dict import DENOISER_KEY
from ..stock.config import package_of
from ..stock.files import check_writable
from ..stock.model import unwrap


def set_resume(config: Config, checkpoint: str) -> None:
    """Let a training go on from a checkpoint, or with 'auto' from the latest in its work folder.

    With 'auto' and none there it begins, from ``load_from``: a job that is started again and again
    has one command.

    Raises:
        ValueError: If the checkpoint has no name.
    """
    if not checkpoint:
        raise ValueError('--resume was given an empty path; without a value it takes the latest')
    if checkpoint == 'auto' and find_latest_checkpoint(config.work_dir) is None:
        config.resume = False
        return
    config.resume = True
    config.load_from = None if checkpoint == 'auto' else checkpoint


def build_runner(config: Config, allow_missing: bool = False) -> Runner:
    """The runner of a config, of its ``runner_type`` where it names one.

    Args:
        config (Config): With a work folder.
        allow_missing (bool): Whether a checkpoint may lack weights of the model.

    Raises:
        FileNotFoundError: If ``load_from`` names a local file that does not exist.
        ValueError: If it names none at all.
        OSError: If the work folder cannot be written to.
    """
    checkpoint = config.get('load_from')
    check_named(checkpoint)
    check_writable(osp.join(config.work_dir, 'log'))
    made, dumped = _missing_folders(config.work_dir), _Dumped(config)
    try:
        runner = RUNNERS.build(config) if 'runner_type' in config else Runner.from_cfg(config)
    except Exception:
        _remove(made)
        dumped.put_back()
        raise
    guard = InputGuard(checkpoint, bool(config.get('resume')), allow_missing)
    runner.register_hook(guard, priority='VERY_HIGH')
    return runner


def test(config: Config, allow_missing: bool = False, out: Optional[str] = None) -> None:
    """Test by a config. The config that a training left in the work folder stays as it is.

    Args:
        config (Config): With a work folder and ``load_from``.
        allow_missing (bool): Whether a checkpoint may lack weights of the model.
        out (str, optional): Where predictions are written, ``*.pkl``, complete or not at all.

    Raises:
        FileNotFoundError, ValueError, OSError: See :func:`build_runner`.
    """
    dumped = _Dumped(config)
    runner = build_runner(config, allow_missing)
    dumped.put_back()
    if not out:
        runner.test()
        return
    dump: Type[DumpResults] = DumpResults
    if package_of(config) == 'mmdet':
        from mmdet.evaluation import DumpDetResults

        dump = DumpDetResults  # encodes masks, which would fill the memory as bitmaps
    partial = f'{out}.part.pkl'
    runner.test_evaluator.metrics.append(dump(out_file_path=partial))
    try:
        runner.test()
        if is_main_process():
            os.replace(partial, out)
    finally:
        if is_main_process():  # another may be here before it has been renamed
            with suppress(OSError):
                os.unlink(partial)


def check_named(checkpoint: Any) -> None:
    """Refuse what names no checkpoint: neither a file that is there nor an address.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is a folder, or no name at all.
    """
    if not checkpoint:
        return
    if not isinstance(checkpoint, str):
        raise ValueError(f'load_from must be the path of one checkpoint, got {checkpoint!r}')
    path = osp.expanduser(checkpoint)
    if osp.isdir(path):
        raise ValueError(f'{checkpoint} is a folder, not a checkpoint')
    if '://' not in checkpoint and not osp.isfile(path):
        raise FileNotFoundError(
            f'there is no checkpoint {checkpoint} (of the command line, or of load_from in the '
            'config)'
        )


def train(config: Config, allow_missing: bool = False) -> None:
    """Train from a config; what is refused before the first iteration leaves no folder behind.

    Args:
        config (Config): With a work folder.
        allow_missing (bool): Whether a checkpoint may lack weights of the model.

    Raises:
        ValueError: See :func:`check_loop`.
        FileNotFoundError, OSError: See :func:`build_runner`.
    """
    check_loop(config, osp.basename(config.filename or 'the config'))
    made, dumped = _missing_folders(config.work_dir), _Dumped(config)
    runner = build_runner(config, allow_missing)
    guard = next(hook for hook in runner.hooks if isinstance(hook, InputGuard))
    try:
        runner.train()
    except Exception as error:
        # The log of what the memory ran out in may be of a long calibration.
        if not guard.trains and not isinstance(error, torch.cuda.OutOfMemoryError):
            _remove(made or [runner.log_dir])
            dumped.put_back()
        raise


def check_loop(config: Config, name: str) -> None:
    """Refuse a training whose length is given twice: in iterations, say, by what changes a config
    that counts epochs.

    Raises:
        ValueError: With the name of what is to be trained.
    """
    loop = config.get('train_cfg') or {}
    if loop.get('max_iters') and loop.get('max_epochs'):
        by_epoch = 'Epoch' in str(loop['type']) if 'type' in loop else loop.get('by_epoch', True)
        counted, other = ('max_epochs', 'max_iters') if by_epoch else ('max_iters', 'max_epochs')
        raise ValueError(
            f'{name}: train_cfg has max_iters and max_epochs; this config counts by {counted}: '
            f'leave out {other}'
        )


class InputGuard(Hook):
    """Refuses a checkpoint that does not fit the model, or from which nothing can be resumed, and
    data sets without an image.

    Args:
        checkpoint (str, optional): Where it is from, for messages.
        resume (bool): Whether training is resumed from it.
        allow_missing (bool): Whether it may lack weights of the model.
    """

    def __init__(self, checkpoint: Optional[str], resume: bool, allow_missing: bool) -> None:
        self.checkpoint = checkpoint or 'the latest checkpoint of the work folder'
        self.resume = resume
        self.allow_missing = allow_missing
        self.trains = False  # after which there is something to keep

    def after_load_checkpoint(self, runner: Runner, checkpoint: Any) -> None:
        if self.resume:
            _check_state(checkpoint, self.checkpoint)
            denoised = any(DENOISER_KEY in key for key in checkpoint['state_dict'])
            if denoisers(unwrap(runner.model)) and not denoised:
                raise ValueError(
                    f'{self.checkpoint} is of a training without denoisers; to start from its '
                    'weights, give it as --cfg-options load_from=PATH without --resume'
                )
        check_fit(runner.model, checkpoint, self.checkpoint, self.allow_missing)

    def before_train(self, runner: Runner) -> None:
        _check_images(runner.train_dataloader, 'train')

    def before_train_iter(self, *args: Any, **kwargs: Any) -> None:
        self.trains = True

    def after_train(self, runner: Runner) -> None:
        self.trains = True  # also where nothing was left to train, of a run that is resumed

    def before_val(self, runner: Runner) -> None:
        _check_images(runner.val_dataloader, 'val')

    def before_test(self, runner: Runner) -> None:
        _check_images(runner.test_dataloader, 'test')


class _Dumped:
    """The config of an earlier run in a work folder, over which a runner writes its own."""

    def __init__(self, config: Config) -> None:
        self._path = Path(config.work_dir, osp.basename(config.filename or ''))
        self._content = self._path.read_bytes() if self._path.is_file() else None

    def put_back(self) -> None:
        """Write it again, as it was."""
        if self._content is not None and is_main_process():
            with suppress(OSError):
                self._path.write_bytes(self._content)


def _missing_folders(path: str) -> List[str]:
    """The folders on the way to ``path`` that are not there, the innermost first."""
    missing = []
    path = osp.abspath(path)
    while not osp.exists(path):
        missing.append(path)
        path = osp.dirname(path)
    return missing


def _remove(folders: List[str]) -> None:
    """Remove the first of some folders, and those around it as far as they are empty then."""
    if folders and is_main_process():
        shutil.rmtree(folders[0], ignore_errors=True)
        for folder in folders[1:]:
            with suppress(OSError):
                os.rmdir(folder)


def _check_state(checkpoint: Any, path: str) -> None:
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    if not (
        isinstance(meta, dict)
        and isinstance(checkpoint.get('message_hub'), dict)
        and all(isinstance(meta.get(key), int) for key in ('epoch', 'iter'))
    ):
        raise ValueError(
            f'{path} holds no state of a training to resume; to start from its weights, give '
            'it as --cfg-options load_from=PATH without --resume'
        )


def _check_images(loader: Any, name: str) -> None:
    dataset = getattr(loader, 'dataset', None)
    if isinstance(dataset, Sized) and len(dataset) == 0:
        raise ValueError(
            f'there is no image in the data set of {name}_dataloader; look at its data_root, '
            'ann_file and data_prefix'
        )
