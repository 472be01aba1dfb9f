"""How long label-free training takes to the Loss_p that calibration reaches in one pass.

    python tools/convergence.py CONFIG CHECKPOINT

Loss_p is that of 'l2' in expectation over the noise, so it is exact. Images are loaded first and
are in memory for both.
"""

import argparse
import time

import torch
from mmengine.config import DictAction
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, load_checkpoint
from rich.console import Console
from rich.table import Table

from mmdenoiserep import calibrate
from mmdenoiserep.benchmark.convergence import loss_p, moments_of, train
from mmdenoiserep.cli import load_denoiserep_config
from mmdenoiserep.config import without_sync_norms


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='stock or DenoiseRep config, or mmdet::folder/name.py')
    parser.add_argument('checkpoint', help='stock checkpoint')
    parser.add_argument('--num-images', type=int, default=512, help='default: 512')
    parser.add_argument(
        '--max-tokens', type=int, nargs='+', default=[64, 256, 1024], help='default: 64 256 1024'
    )
    parser.add_argument('--lr', type=float, nargs='+', default=[1e-3, 1e-2], help='of Adam')
    parser.add_argument(
        '--limit', type=float, default=20, help="how many times calibration's time (default: 20)"
    )
    parser.add_argument('--device', default=get_device())
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    MMLogger.get_current_instance().setLevel('ERROR')
    config = without_sync_norms(load_denoiserep_config(args.config, options=args.cfg_options))
    config.model.backbone.loss = 'l2'
    init_default_scope(config.default_scope)
    part = config.model
    if config.get('data_preprocessor'):
        part.setdefault('data_preprocessor', config.data_preprocessor)
    model = MODELS.build(part)
    load_checkpoint(model, args.checkpoint, map_location='cpu')
    model.to(args.device).eval()

    batches, inputs = [], []
    for batch in Runner.build_dataloader(config.train_dataloader, seed=0):
        batches.append(batch)
        inputs.append(model.data_preprocessor(batch, True)['inputs'])
        if sum(map(len, inputs)) >= args.num_images:
            break
    moments = moments_of(model, inputs)
    start = loss_p(model, moments)

    seconds = []
    for _ in range(3):
        for denoiser in model.backbone.modules():
            if hasattr(denoiser, 'predict_noise'):
                torch.nn.init.zeros_(denoiser.weight)
        begin = time.perf_counter()
        calibrate(model, batches, args.num_images, training=True)
        seconds.append(time.perf_counter() - begin)
    seconds = sorted(seconds)[1]
    reached = loss_p(model, moments)

    table = Table(
        title=f'Loss_p: {start:.4f} at W_D = 0, {reached:.4f} calibrated in {seconds:.1f} s'
    )
    for column in (
        'max_tokens',
        'lr',
        'steps',
        'Loss_p at the end',
        'within 1 %',
        '99 % of the way',
    ):
        table.add_column(column, justify='right')
    for max_tokens in args.max_tokens:
        for lr in args.lr:
            course = train(model, inputs, moments, max_tokens, lr, args.limit * seconds)
            table.add_row(
                str(max_tokens),
                f'{lr:g}',
                str(course.steps[-1]),
                f'{course.losses[-1]:.4f}',
                times(course, 1.01 * reached, seconds),
                times(course, reached + 0.01 * (start - reached), seconds),
            )
    Console(width=110).print(table)


def times(course, loss: float, seconds: float) -> str:
    """How many times calibration's time it took to a loss."""
    index = course.reach(loss)
    return (
        f'> {course.seconds[-1] / seconds:.0f} x'
        if index is None
        else (f'{course.seconds[index] / seconds:.1f} x')
    )


if __name__ == '__main__':
    main()
