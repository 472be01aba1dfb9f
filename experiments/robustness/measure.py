"""The statistics of every image under every noise, measured once and kept."""

import contextlib
import copy
import io
import os
import os.path as osp
import shutil
import zipfile
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional

import numpy as np
from mmengine.device import get_device

from experiments.study.bootstrap import resamples
from mmdenoiserep.stock.checkpoint import load_exactly
from mmdenoiserep.stock.files import atomic_write

from .cache import folder_of
from .noises import CLEAN, SEED, Noise
from .plan import Checkpoint, Plan
from .progress import Meter

Arrays = Dict[str, np.ndarray]


class Job(NamedTuple):
    """A checkpoint to measure under a noise."""

    checkpoint: Checkpoint
    noise: Noise


def jobs_of(plan: Plan) -> List[Job]:
    """What is still to be measured; all checkpoints under a noise in succession."""
    return [
        Job(checkpoint, noise)
        for noise in plan.noises
        for checkpoint in plan.checkpoints
        if load_statistics(plan, checkpoint, noise) is None
    ]


def check_space(plan: Plan, jobs: List[Job]) -> str:
    """What the corrupted images take, in words.

    Raises:
        ValueError: If the disk has not so much left.
    """
    noises = {job.noise for job in jobs if job.noise != CLEAN and not job.noise.transform}
    if not plan.cache or not noises:
        return ''
    os.makedirs(plan.cache, exist_ok=True)
    folders = [Path(plan.cache, folder_of(*noise[:2], SEED)) for noise in noises]
    there = sum(path.stat().st_size for folder in folders for path in folder.glob('*.png'))
    needed = plan.num_bytes * len(noises)
    free = shutil.disk_usage(plan.cache).free
    text = f'corrupted images are kept in {plan.cache}: at most {needed / 2**30:.2f} GiB'
    if needed - there > free:
        raise ValueError(
            f'{text}, and the disk has {free / 2**30:.2f} GiB left; give another --work-dir, or '
            '--no-cache, with which every checkpoint takes the time to corrupt them again'
        )
    return f'{text} ({free / 2**30:.2f} GiB free)'


def measure(plan: Plan, jobs: List[Job], meter: Meter) -> None:
    """Measure what is missing; each statistic is written when it is complete.

    Raises:
        ValueError: If predictions cannot be measured.
    """
    model = plan.model.to(get_device())
    handle = model.register_forward_hook(lambda _, __, output: meter.advance(len(output)))
    try:
        for job in jobs:
            meter.start(f'{job.noise}, {job.checkpoint.name}')
            load_exactly(model, job.checkpoint.weights, job.checkpoint.path)
            config = copy.deepcopy(plan.config)
            config.test_dataloader.dataset = plan.dataset_with(job.noise)
            with contextlib.redirect_stdout(io.StringIO()):  # of pycocotools
                arrays = plan.task.collect(model, config)
            save_arrays(plan.statistics_file(*job), plan.fingerprint_of(*job), arrays)
    finally:
        handle.remove()


def load_statistics(plan: Plan, checkpoint: Checkpoint, noise: Noise) -> Optional[Arrays]:
    """What was measured of a checkpoint under a noise, or None."""
    path = plan.statistics_file(checkpoint, noise)
    return load_arrays(path, plan.fingerprint_of(checkpoint, noise))


def load_scores(plan: Plan, replicates: int, meter: Meter) -> Dict[str, Dict[Noise, np.ndarray]]:
    """The score of each checkpoint under each noise, of the data and of bootstrap samples.

    The samples are the same for all checkpoints and all noises.

    Returns:
        dict[str, dict[Noise, ndarray]]: By the checkpoint's name, (1 + replicates,).
    """
    counts = resamples(len(plan.dataset), replicates)

    def score(checkpoint: Checkpoint, noise: Noise) -> np.ndarray:
        meter.start(f'{noise}, {checkpoint.name}')
        path = Path(plan.statistics_file(checkpoint, noise)).with_suffix(
            f'.scores-{replicates}.npz'
        )
        # Kept too: the samples' APs take a while.
        return kept(
            str(path),
            plan.fingerprint_of(checkpoint, noise),
            lambda: dict(score=plan.task.score(load_statistics(plan, checkpoint, noise), counts)),
        )['score']

    out: Dict[str, Dict[Noise, np.ndarray]] = {}
    for checkpoint in plan.checkpoints:
        out[checkpoint.name] = {}
        for noise in plan.noises:
            out[checkpoint.name][noise] = score(checkpoint, noise)
            meter.advance()
    return out


def kept(path: str, fingerprint: str, make: Callable[[], Arrays]) -> Arrays:
    """Arrays from a file, or made and written there."""
    arrays = load_arrays(path, fingerprint)
    if arrays is None:
        arrays = make()
        save_arrays(path, fingerprint, arrays)
    return arrays


def load_arrays(path: str, fingerprint: str) -> Optional[Arrays]:
    """Arrays that were written under a fingerprint; None if there are none."""
    if not osp.isfile(path):
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile):  # damaged: made again
        return None
    return arrays if str(arrays.pop('fingerprint', '')) == fingerprint else None


def save_arrays(path: str, fingerprint: str, arrays: Arrays) -> None:
    """Write arrays, all or nothing."""
    with atomic_write(path) as file:
        np.savez_compressed(file, fingerprint=np.array(fingerprint), **arrays)
