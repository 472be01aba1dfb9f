"""Measure what denoising costs, in inference, in training and in calibration.

    python tools/benchmark.py configs/fcn_r50_denoiserep.py --size 512 512 --batch-size 4

All alternatives run in one process, in alternating order; ratios are of medians. Weights are
random: speed does not depend on them.
"""

import argparse
import json
import platform
import statistics
import warnings
from pathlib import Path

import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.device import get_device
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from experiments import plots
from mmdenoiserep.cli import (
    add_tool_arguments,
    at_least,
    load_denoiserep_config,
    run_tool,
    usable_device,
)
from mmdenoiserep.stock.files import check_writable
from mmdenoiserep.stock.model import preprocess

from .memory import STEPS, peak_memory
from .timing import alternate
from .variants import (
    TRAINING,
    Case,
    breakdown,
    calibration_steps,
    forward,
    inference,
)

PARTS = ('inference', 'training', 'calibration', 'breakdown')
#: What each ratio is of.
REFERENCES = {
    'label-aug step': 'stock step',
    'label-free step': 'backbone forward',
    'dense label-free step': 'backbone forward',
    'calibration': 'plain inference',
    'measured noise, channel': 'whole inference',
    'measured noise, kernel': 'whole inference',
    'whole step': 'forward pass',
    'W A of all layers': 'forward pass',
    'noise loss, with its gradient': 'forward pass',
    'optimizer': 'forward pass',
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='stock or DenoiseRep config, or mmdet::folder/name.py')
    parser.add_argument(
        '--size', nargs=2, type=at_least(64), default=(224, 224), metavar=('H', 'W')
    )
    parser.add_argument('--batch-size', type=at_least(1), default=1)
    parser.add_argument('--rounds', type=at_least(1), default=10, help='default: 10')
    parser.add_argument(
        '--parts', nargs='+', choices=PARTS, default=PARTS[:3], help='default: all but breakdown'
    )
    parser.add_argument(
        '--steps', nargs='+', choices=TRAINING, default=TRAINING, help='of training; default: all'
    )
    parser.add_argument(
        '--num-images', type=at_least(1), default=16, help='of calibration; default: 16'
    )
    parser.add_argument(
        '--device',
        type=usable_device,
        default=get_device(),
        help='default: a GPU if there is one',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument(
        '--memory-samples',
        type=at_least(0),
        default=3,
        help='processes to measure peak memory in; 0: none',
    )
    parser.add_argument('--json', type=Path, help='write all samples to this file')
    parser.add_argument('--plot', type=Path, help='draw the medians into this *.png')
    add_tool_arguments(parser)
    args = parser.parse_args()
    if args.plot and args.plot.suffix not in ('.png', '.pdf', '.svg'):
        parser.error('--plot must be a *.png file')
    return args


def run(args: argparse.Namespace) -> None:
    for path in filter(None, (args.json, args.plot)):
        check_writable(str(path))  # now, and not after an hour of measuring
    config = load_denoiserep_config(args.config)
    case = Case(config, tuple(args.size), args.batch_size, args.device, args.amp)
    console = Console(width=120)
    MMLogger.get_current_instance().setLevel('ERROR')
    warnings.simplefilter('ignore')
    records = {}
    for part in args.parts:
        console.rule(part)
        steps, costs = prepare(case, part, args)
        with Progress(console=console, transient=True) as progress:
            warmup = min(2, args.rounds)
            task = progress.add_task(part, total=len(steps) * (args.rounds + warmup))
            timings = alternate(
                steps, args.rounds, warmup, progress=lambda t=task: progress.advance(t)
            )
        del steps
        for name, timing in timings.items():
            images = args.num_images if part == 'calibration' else args.batch_size
            record = dict(part=part, images=images, **costs.get(name, {}), **timing._asdict())
            if name in STEPS and args.memory_samples > 0:
                peaks = [peak_memory(case, name) for _ in range(args.memory_samples)]
                record.update(peak_memory=statistics.median(peaks), peak_memory_samples=peaks)
            records[name] = record
        console.print(table(part, {n: r for n, r in records.items() if r['part'] == part}))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(dict(**conditions(args), records=records), indent=1))
    if args.plot:
        draw(records, args.plot)


def main() -> None:
    run_tool(parse_args, run)


def prepare(case: Case, part: str, args: argparse.Namespace):
    """The steps of a part, and what they cost by count."""
    if part == 'training':
        return {name: TRAINING[name](case) for name in args.steps}, {}
    if part == 'breakdown':
        return breakdown(case), {}
    if part == 'calibration':
        return calibration_steps(case, args.num_images), {}
    models = inference(case)
    costs = {}
    for name, model in models.items():
        inputs, _ = preprocess(model, case.batch(), limit=1)
        with torch.no_grad():
            flops = get_model_complexity_info(
                model.backbone, inputs=(inputs,), show_table=False, show_arch=False
            )['flops']
        parameters = sum(p.numel() for p in model.parameters())
        costs[name] = dict(flops=flops, parameters=parameters)
    return {name: forward(case, model) for name, model in models.items()}, costs


def conditions(args: argparse.Namespace) -> dict:
    """What the figures depend on."""
    cuda = args.device.startswith('cuda')
    return dict(
        config=args.config,
        size=list(args.size),
        batch_size=args.batch_size,
        rounds=args.rounds,
        amp=args.amp,
        device=torch.cuda.get_device_name() if cuda else f'{platform.machine()} CPU',
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def table(part: str, records: dict) -> Table:
    """Medians, and their ratios to the reference of each."""
    out = Table(title=part)
    for column in ('', 'median', 'spread', 'ratio', 'images/s', 'FLOPs', 'parameters', 'peak'):
        out.add_column(column, justify='left' if not column else 'right')
    for name, record in records.items():
        reference = records.get(REFERENCES.get(name, 'baseline'))
        ratio = f'{record["median"] / reference["median"]:.3f}' if reference else ''
        peak = record.get('peak_memory')
        out.add_row(
            name,
            f'{1000 * record["median"]:.1f} ms',
            f'{1000 * record["spread"]:.1f} ms',
            ratio,
            f'{record["images"] / record["median"]:.1f}',
            f'{record["flops"] / 1e9:.2f} G' if 'flops' in record else '',
            f'{record["parameters"] / 1e6:.2f} M' if 'parameters' in record else '',
            f'{peak / 2**20:.0f} MiB' if peak else '',
        )
    return out


def draw(records: dict, path: Path) -> None:
    """A bar for each median, with its spread."""
    pyplot = plots.pyplot()
    parts = list(dict.fromkeys(record['part'] for record in records.values()))
    figure, axes = pyplot.subplots(
        len(parts), figsize=(7, 0.5 * len(records) + len(parts)), squeeze=False
    )
    for part, axis in zip(parts, axes[:, 0]):
        chosen = {n: r for n, r in records.items() if r['part'] == part}
        medians = [1000 * r['median'] for r in chosen.values()]
        spreads = [500 * r['spread'] for r in chosen.values()]
        axis.barh(list(chosen), medians, xerr=spreads, color='tab:blue')
        axis.invert_yaxis()
        axis.set_xlabel(f'{part}: ms')
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
