"""Scores of a study's checkpoints, with bootstrap samples, and what they come to for each arm."""

from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from experiments.robustness.measure import kept
from experiments.robustness.noises import CLEAN, Noise
from experiments.robustness.summary import interval, share
from experiments.study.bootstrap import Difference, paired_difference, resamples

from .arms import Arm
from .jobs import Job, View
from .plan import Study, views_of


class ArmResult(NamedTuple):
    """What an arm comes to on the test images.

    Attributes:
        clean (Difference): The mean over its checkpoints.
        clean_change (Difference): To stock.
        noisy (Difference): The mean over some noises.
        recovered (Difference, optional): Share of stock's loss that is won back, in percent; None
            for stock, and where stock loses nothing for sure.
        noises (dict[str, tuple]): By noise: the score and the recovered share.
        further (dict[str, tuple]): By the name of a further metric: its clean and noisy mean.
        minutes (float): To make one checkpoint, the mean.
        note (str): What there is to say.
    """

    clean: Difference
    clean_change: Difference
    noisy: Difference
    recovered: Optional[Difference]
    noises: Dict[str, Tuple[float, Optional[Difference]]]
    further: Dict[str, Tuple[float, float]]
    minutes: float
    note: str


def score(study: Study, job: Job, view: View, replicates: int) -> np.ndarray:
    """The score of a view of the data and of its bootstrap samples, (1 + replicates,)."""

    def make() -> Dict[str, np.ndarray]:
        arrays = job.arrays(view)
        counts = resamples(study.task.num_images(arrays), replicates)
        return dict(score=study.task.score(arrays, counts))

    path = Path(job.statistics_file(view)).with_suffix(f'.scores-{replicates}.npz')
    return kept(str(path), job.fingerprint(), make)['score']


def validated(study: Study, arm: Arm, jobs: List[Job]) -> Tuple[float, float]:
    """Clean and noisy score on the validation images, the mean over an arm's checkpoints."""
    clean, noisy = [], []
    for job in jobs:
        for view in study.views(arm, job.noises, 'val'):
            (clean if view[1] == CLEAN else noisy).append(score(study, job, view, 0)[0])
    return float(np.mean(clean)), float(np.mean(noisy))


def tested(study: Study, jobs: Dict[str, List[Job]], group: Sequence[str]) -> Dict[str, ArmResult]:
    """The arms that are measured under some noises, on the test images, against stock."""
    (stock,) = jobs['stock']
    samples = study.replicates
    stock_clean = score(study, stock, ('test', CLEAN), samples)
    shared = views_of('test', group)
    out = {}
    for name, every in jobs.items():
        arm = study.arms[name]
        if not set(group) <= set(study.measured_under(arm)):
            continue
        own = {
            job: [view for view in study.views(arm, job.noises, 'test') if view in shared]
            for job in every
        }
        own = {job: views for job, views in own.items() if views[1:]}
        clean, noisy, reference, noises = [], [], [], {}
        for job, views in own.items():
            clean.append(score(study, job, ('test', CLEAN), samples))
            for view in views[1:]:
                noisy.append(score(study, job, view, samples))
                reference.append(score(study, stock, view, samples))
                won = share(noisy[-1], reference[-1], stock_clean) if job != stock else None
                noises[str(view[1])] = (float(noisy[-1][0]), won)
        records = [job.record() for job in own]
        means = [np.mean(group, 0) for group in (clean, noisy, reference)]
        out[name] = ArmResult(
            clean=interval(means[0]),
            clean_change=paired_difference([means[0]], [stock_clean]),
            noisy=interval(means[1]),
            recovered=None if name == 'stock' else share(means[1], means[2], stock_clean),
            noises=noises,
            further=_further(study, own),
            minutes=float(np.mean([record['minutes'] for record in records])),
            note='; '.join(sorted({record['note'] for record in records if record['note']})),
        )
    return out


def _further(study: Study, jobs: Dict[Job, List[View]]) -> Dict[str, Tuple[float, float]]:
    found: Dict[str, Tuple[float, float]] = {}
    for name, metric in getattr(study.task, 'FURTHER', {}).items():
        sides: Tuple[List[float], List[float]] = ([], [])
        for job, views in jobs.items():
            for view in views:
                arrays = job.arrays(view)
                counts = resamples(study.task.num_images(arrays), 0)
                sides[view[1] != CLEAN].append(metric(arrays, counts)[0])
        found[name] = (float(np.mean(sides[0])), float(np.mean(sides[1])))
    return found


def transferred(
    study: Study, jobs: Dict[str, List[Job]], noises: List[Noise]
) -> Dict[str, Dict[str, Tuple[float, Optional[Difference]]]]:
    """Under noises that were not measured: by arm and noise, the score and the recovered share."""
    (stock,) = jobs['stock']
    samples = study.replicates
    clean = score(study, stock, ('test', CLEAN), samples)
    out: Dict[str, Dict[str, Tuple[float, Optional[Difference]]]] = {}
    for name in ('stock', *study.transfer['arms']):
        job = jobs[name][0]
        out[name] = {}
        for noise in noises:
            own = score(study, job, ('test', noise), samples)
            reference = score(study, stock, ('test', noise), samples)
            won = None if name == 'stock' else share(own, reference, clean)
            out[name][str(noise)] = (float(own[0]), won)
    return out
