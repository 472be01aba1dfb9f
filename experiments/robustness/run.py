"""How much of a model's performance is left on corrupted images, and how much comes back?

    python tools/test_robustness.py CONFIG stock.pth robust.pth --severities 1 3 5

The benchmark of Michaelis et al. (arXiv 1907.07484) for detection, segmentation and
classification. All checkpoints load into CONFIG, a stock config; the others are compared with the
first. Run the command again to go on after an interruption: what is measured is kept.
docs/robustness.md says what the figures mean.
"""

import argparse
import os.path as osp
import warnings

from mmengine.logging import MMLogger
from rich.console import Console

from mmdenoiserep.cli import add_tool_arguments, at_least, run_tool
from mmdenoiserep.cli.arguments import OPTIONS_HELP, ConfigOptions, add_noise_argument
from mmdenoiserep.stock.files import check_writable

from .measure import check_space, jobs_of, load_scores, measure
from .pictures import draw_pictures
from .plan import Plan, read_plan
from .progress import Meter
from .report import write_report


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='stock config file, or mmdet::folder/name.py')
    parser.add_argument(
        'checkpoints', nargs='+', help='checkpoint files; the first is compared with'
    )
    parser.add_argument(
        '--corruptions',
        nargs='+',
        metavar='NAME',
        help='benchmark (15, the default), holdout (4), all, or names such as gaussian_noise',
    )
    parser.add_argument(
        '--severities',
        nargs='+',
        type=int,
        metavar='S',
        help='1 to 5 (default: all five)',
    )
    add_noise_argument(
        parser,
        'noises as tools/calibrate.py takes them: fog:2, or the config of a transform as JSON',
    )
    parser.add_argument(
        '--degraded',
        metavar='DIR',
        help='a folder with degraded versions of the test images, under their names',
    )
    parser.add_argument('--work-dir', help='default: work_dirs/robustness/<name of the config>')
    parser.add_argument(
        '--pictures',
        type=at_least(0),
        default=0,
        metavar='N',
        help='draw the N worst losses and the N best recoveries (default: 0)',
    )
    parser.add_argument(
        '--replicates', type=at_least(1), default=1000, help='bootstrap samples (default: 1000)'
    )
    parser.add_argument(
        '--no-cache', action='store_true', help='do not keep the corrupted images on the disk'
    )
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, help=OPTIONS_HELP)
    add_tool_arguments(parser)
    return parser.parse_args()


def main() -> None:
    run_tool(parse_args, test)


def test(args: argparse.Namespace) -> None:
    """Check everything, measure what is missing, report."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    MMLogger.get_current_instance().setLevel('ERROR')
    warnings.simplefilter('ignore')
    plan = read_plan(args)
    check_writable(osp.join(plan.root, 'report.md'))
    run(plan, args, console)


def run(plan: Plan, args: argparse.Namespace, console: Console) -> None:
    """Measure what is missing, and report."""
    jobs = jobs_of(plan)
    every = len(plan.noises) * len(plan.checkpoints)
    if jobs:
        space = check_space(plan, jobs)
        if space:
            console.print(space, soft_wrap=True)
        console.print(
            f'to measure: {len(jobs)} of {every} (checkpoints: {len(plan.checkpoints)}; noises, '
            f'with none: {len(plan.noises)}), each on {len(plan.dataset)} images'
        )
        meter = Meter(len(jobs) * len(plan.dataset))
        measure(plan, jobs, meter)
        meter.close()
    meter = Meter(every, 'intervals')
    scores = load_scores(plan, args.replicates, meter)
    meter.close()
    write_report(plan, scores, args.replicates, console)
    if args.pictures:
        draw_pictures(plan, args.pictures)
    console.print(
        f'written to {plan.root}: report.md, scores.json, robustness.png'
        + (' and pictures/' if args.pictures else ''),
        soft_wrap=True,
    )
