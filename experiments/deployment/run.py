"""What is best for a model that sees degraded images? Ways to a robust checkpoint, compared."""

from typing import Dict, List, Optional

from mmengine.config import Config
from rich.console import Console
from rich.markdown import Markdown

from experiments.robustness.noises import CLEAN, Noise
from experiments.study.pool import work
from mmdenoiserep.transforms.degrade import name_of

from .depth import errors_by_depth
from .jobs import Job
from .latency import latency_ratio
from .plan import read_study, setting_name
from .report import write_report
from .results import tested, transferred, validated

#: Kinds of arms whose features are looked at layer by layer.
DEEP = ('stock', 'batch-norm', 'continued', 'measured', 'matched')
#: Kinds that train: the longest jobs, with which one begins so that no core waits at the end.
LONG = ('matched', 'continued')


def run_deployment(
    config: Config,
    root: str,
    only: Optional[List[str]],
    workers: int,
    read_test: bool,
    console: Console,
) -> None:
    """Make what is missing, choose on the validation images, test, report."""
    study = read_study(config, root, only)
    candidates: Dict[str, Dict[str, List[Job]]] = {}
    every = {**study.arms, **study.dials}
    for name, arm in every.items():
        candidates[name] = {
            setting_name(values): [
                study.job(arm, values, target, study.views(arm, target, 'val'))
                for target in study.targets(arm)
            ]
            for values in arm.candidates()
        }
    to_choose = [
        job
        for name, settings in candidates.items()
        if len(settings) > 1
        for jobs in settings.values()
        for job in jobs
    ]
    work(study.base, console, 'validation', sorted(to_choose, key=_order), workers)
    choices = {
        name: {setting: validated(study, every[name], jobs) for setting, jobs in settings.items()}
        for name, settings in candidates.items()
        if len(settings) > 1
    }

    def value(name: str, setting: str) -> float:
        clean, noisy = choices[name][setting]
        return study.keep_clean * clean + (1 - study.keep_clean) * noisy

    results, chosen, transfers, latencies, depth = {}, {}, {}, {}, {}
    extra = [Noise(*name_of(noise)) for noise in study.transfer['noises']]
    if read_test:
        jobs: Dict[str, List[Job]] = {}
        for name, arm in study.arms.items():
            settings = candidates[name]
            best = max(settings, key=lambda s: value(name, s)) if name in choices else ''
            chosen[name] = best or next(iter(settings))
            more = [('test', n) for n in extra if name in ('stock', *study.transfer['arms'])]
            jobs[name] = []
            for job in settings[chosen[name]]:
                views = study.views(arm, job.noises, 'test') + ([] if jobs[name] else more)
                jobs[name].append(job._replace(views=tuple(dict.fromkeys(views))))
        to_test = [job for own in jobs.values() for job in own]
        work(study.base, console, 'test', sorted(to_test, key=_order), workers)
        results = {group: tested(study, jobs, group) for group in study.groups()}
        transfers = transferred(study, jobs, extra)
        plain = jobs['stock'][0].view_config(('test', CLEAN))
        for name, arm in study.arms.items():
            if arm.kind == 'restore':
                latencies[name] = latency_ratio(jobs[name][0], plain)
        depth = errors_by_depth(
            study, {name: own for name, own in jobs.items() if study.arms[name].kind in DEEP}
        )
    report = write_report(study, results, choices, chosen, transfers, latencies, depth)
    console.print(Markdown(report))
    console.print(f'written to {study.root}: report.md, scores.json and pictures')


def _order(job: Job) -> bool:
    return job.kind not in LONG
