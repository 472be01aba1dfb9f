"""Does denoising help on your data? Train, compare and report.

    python tools/study.py configs/study/vit_digits.py

Baselines are trained with several seeds; every arm goes on from each of them with an equal budget.

    python tools/study.py configs/study/deployment/atss_bccd.py

A stock checkpoint sees degraded images; every arm is a way to make it robust.

Settings are chosen on the validation split; then the test split is read, once. Run the command
again to go on after an interruption: what is finished is kept. docs/study-manual.md says what a
study config holds.
"""

import argparse
import os
from pathlib import Path

import torch
from rich.console import Console
from rich.markdown import Markdown

from experiments.splits import check_splits
from mmdenoiserep.cli import add_tool_arguments, at_least, load_config, run_tool
from mmdenoiserep.cli.arguments import OPTIONS_HELP, ConfigOptions
from mmdenoiserep.cli.configs import merge
from mmdenoiserep.stock.files import check_writable

from .arms import arm_config
from .movement import weight_change
from .plan import TASKS, Study, read_study, setting_name
from .pool import work
from .report import (
    best_setting,
    compare,
    load_scores,
    mean_score,
    write_report,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='study config')
    parser.add_argument('--work-dir', help='default: work_dirs/study/<name of the config>')
    parser.add_argument(
        '--workers',
        type=at_least(1),
        help='jobs at a time (default: one for each GPU, else for each core)',
    )
    parser.add_argument(
        '--validation-only', action='store_true', help='stop before the test split is read'
    )
    parser.add_argument(
        '--arms', nargs='+', metavar='ARM', help='of a deployed model: only these arms and dials'
    )
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, help=OPTIONS_HELP)
    add_tool_arguments(parser)
    return parser.parse_args()


def run_study(args: argparse.Namespace) -> None:
    root = args.work_dir or str(Path('work_dirs', 'study', Path(args.config).stem))
    workers = args.workers or torch.cuda.device_count() or os.cpu_count() or 1
    console = Console()
    check_writable(str(Path(root, 'report.md')))
    config = load_config(args.config)
    if args.cfg_options:
        merge(config, args.cfg_options)
    if 'checkpoint' in config:
        # Imported here: it is based on this package.
        from experiments.deployment.run import run_deployment

        run_deployment(config, root, args.arms, workers, not args.validation_only, console)
        return
    if args.arms:
        raise ValueError(f'{args.config} compares arms of equal budget: --arms has no place there')
    study = read_study(config, root)
    arms = [a for a in {**study.arms, **study.ablations}.values() if a.unlabelled]
    arms.append(study.arms[study.control])
    seen: list = []
    for base in (study.base, *(arm_config(study.base, arm, study.extra, {}) for arm in arms)):
        data = [base.get(f'{split}_dataloader') for split in ('train', 'val', 'test')]
        data += [base.get('val_evaluator'), base.get('test_evaluator')]
        if data not in seen:  # lists of images take a while to build
            check_splits(config.baseline, base, TASKS, corrupted=False)
        seen.append(data)
    results = run(study, workers, not args.validation_only, console)
    console.print(Markdown(write_report(study, *results)))
    console.print(f'written to {root}: report.md, scores.json and pictures')


def main() -> None:
    run_tool(parse_args, run_study)


def run(study: Study, workers: int, read_test: bool, console: Console) -> tuple:
    """All stages; what :func:`write_report` takes."""
    work(study.base, console, 'baselines', study.baseline_jobs(('val',)), workers)
    everything = {**study.arms, **study.ablations}
    settings = {
        name: {setting_name(values): values for values in arm.candidates()}
        for name, arm in everything.items()
    }
    jobs = {
        (name, setting): study.arm_jobs(everything[name], values, study.selection_seeds, ('val',))
        for name, candidates in settings.items()
        for setting, values in candidates.items()
    }
    work(
        study.base, console, 'selection', [job for group in jobs.values() for job in group], workers
    )

    folders = [study.baseline_folder(seed) for seed in study.selection_seeds]
    validated = {'baseline': load_scores(study, folders, 'val')}
    chosen, selections = {}, {}
    for name, candidates in settings.items():
        scores = {
            setting: load_scores(study, [j.folder for j in jobs[name, setting]], 'val', 0)
            for setting in candidates
        }
        best = best_setting(study, scores)
        chosen[name] = candidates[best]
        selections[name] = {
            setting: dict(
                score=mean_score(found, study.metric), change=weight_change(jobs[name, setting])
            )
            for setting, found in scores.items()
        }
        validated[name] = load_scores(study, [j.folder for j in jobs[name, best]], 'val')
    references = ('baseline', study.control)
    tests = None
    if read_test:
        final = {'baseline': study.baseline_jobs(('val', 'test'))}
        for name, arm in study.arms.items():
            final[name] = study.arm_jobs(arm, chosen[name], study.seeds, ('val', 'test'))
        work(
            study.base, console, 'test', [job for group in final.values() for job in group], workers
        )
        tests = {
            name: load_scores(study, [job.folder for job in group], 'test')
            for name, group in final.items()
        }
        tests = compare(study, tests, references)
    return tests, compare(study, validated, references), selections, chosen
