"""How long label-free training takes to the Loss_p that calibration reaches in one pass.

    python tools/convergence.py CONFIG CHECKPOINT

Loss_p is that of 'l2' in expectation over the noise, so it is exact. Images are loaded first and
are in memory for both.
"""

import argparse
import itertools
import math
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mmdenoiserep import Denoiser, calibrate, denoisers
from mmdenoiserep.calibration import SecondMoments
from mmdenoiserep.cli import (
    add_tool_arguments,
    at_least,
    load_denoiserep_config,
    run_tool,
    usable_device,
)
from mmdenoiserep.cli.arguments import OPTIONS_HELP, ConfigOptions
from mmdenoiserep.stock.checkpoint import load_checkpoint_from, load_exactly, weights_of
from mmdenoiserep.stock.model import build_model, preprocess, run_backbone
from mmdenoiserep.training import denoising_losses, observe_inputs

#: Images, and their data samples for a backbone that needs them.
Batch = Tuple[Tensor, Any]


class Course(NamedTuple):
    """Loss_p after the steps of a training, and the seconds that they took."""

    steps: List[int]
    seconds: List[float]
    losses: List[float]

    def reach(self, loss: float) -> Optional[int]:
        """The index of the first entry that is no more than ``loss``; None if none is."""
        return next((i for i, value in enumerate(self.losses) if value <= loss), None)


def expected_loss(denoiser: Denoiser, moment: Tensor) -> float:
    r"""The loss 'l2' of a denoiser in expectation over the noise: nothing is sampled.

    :math:`1 - (2 \sqrt{1 - \bar\alpha_t} \, tr W_D - tr(W_D S W_D^T)) / C` with
    :math:`S = \bar\alpha_t M + (1 - \bar\alpha_t) I`.

    Args:
        denoiser (Denoiser): With noise of unit scale.
        moment (Tensor): M = E[x xᵀ] of the layer's input, (G, C/G, C/G), float64.
    """
    weight = denoiser.weight.detach().to(moment)
    alpha_bar = denoiser.schedule.alpha_bar(denoiser.step)
    noisy = alpha_bar * moment + (1 - alpha_bar) * torch.eye(moment.shape[-1]).to(moment)
    gain = 2 * (1 - alpha_bar) ** 0.5 * weight.diagonal(dim1=-2, dim2=-1).sum()
    cost = (weight @ noisy * weight).sum()
    return 1 - ((gain - cost) / weight.shape[:2].numel()).item()


@torch.no_grad()
def moments_of(model: nn.Module, inputs: Sequence[Batch]) -> Dict[str, Tensor]:
    """E[x xᵀ] of all denoised layers over all tokens of all images."""
    moments = SecondMoments(denoisers(model))
    with observe_inputs(denoisers(model), moments.update):
        for batch in inputs:
            run_backbone(model, *batch)
    return {name: moments.of(name) for name in denoisers(model)}


def loss_p(model: nn.Module, moments: Dict[str, Tensor]) -> float:
    """The mean of the layers' expected losses."""
    modules = denoisers(model)
    return sum(expected_loss(modules[n], m) for n, m in moments.items()) / len(moments)


def train(
    model: nn.Module,
    inputs: Sequence[Batch],
    moments: Dict[str, Tensor],
    max_tokens: Optional[int],
    lr: float,
    max_seconds: float = math.inf,
    max_steps: float = math.inf,
    every: int = 10,
) -> Course:
    """Label-free training with Adam from W_D = 0, as :class:`DenoiseRepHook` does it.

    Args:
        model (nn.Module): With denoisers of loss 'l2'; they are reset, then trained.
        inputs (Sequence[Batch]): Taken in turn.
        moments (dict[str, Tensor]): Of :func:`moments_of`: what Loss_p is measured with.
        max_tokens (int, optional): Of the noise loss.
        lr (float): Learning rate.
        max_seconds (float): When to stop. Measuring does not count. Defaults to never.
        max_steps (float): The same by number of steps. Defaults to never.
        every (int): Steps from one measurement to the next. Defaults to 10.
    """
    modules = denoisers(model)
    for denoiser in modules.values():
        nn.init.zeros_(denoiser.weight)
    optimizer = torch.optim.Adam([d.weight for d in modules.values()], lr)
    course, seconds = Course([0], [0.0], [loss_p(model, moments)]), 0.0
    batches: Iterator[Batch] = itertools.cycle(inputs)
    for step in itertools.count(1):
        begin = time.perf_counter()
        batch = next(batches)
        losses = denoising_losses(
            modules, lambda b=batch: run_backbone(model, *b), 1.0, max_tokens, step
        )
        optimizer.zero_grad()
        losses.total['loss_denoise'].backward()
        optimizer.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds += time.perf_counter() - begin
        done = seconds >= max_seconds or step >= max_steps
        if step % every == 0 or done:
            course.steps.append(step)
            course.seconds.append(seconds)
            course.losses.append(loss_p(model, moments))
        if done:
            return course


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='stock or DenoiseRep config, or mmdet::folder/name.py')
    parser.add_argument('checkpoint', help='stock checkpoint')
    parser.add_argument('--num-images', type=at_least(1), default=512, help='default: 512')
    parser.add_argument(
        '--max-tokens',
        type=at_least(1),
        nargs='+',
        default=[64, 256, 1024],
        help='default: 64 256 1024',
    )
    parser.add_argument(
        '--lr', type=at_least(1e-12, float), nargs='+', default=[1e-3, 1e-2], help='of Adam'
    )
    parser.add_argument(
        '--limit',
        type=at_least(1e-3, float),
        default=20,
        help="how many times calibration's time (default: 20)",
    )
    parser.add_argument('--device', type=usable_device, default=get_device())
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, help=OPTIONS_HELP)
    add_tool_arguments(parser)
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    MMLogger.get_current_instance().setLevel('ERROR')
    config = load_denoiserep_config(args.config, options=args.cfg_options)
    if not config.get('train_dataloader'):
        raise ValueError(f'{args.config} has no train_dataloader, which names the images')
    config.model.backbone.loss = 'l2'
    model = build_model(config)
    weights = weights_of(load_checkpoint_from(args.checkpoint), args.checkpoint)
    load_exactly(model, weights, args.checkpoint)
    model.to(args.device).eval()

    batches, inputs = [], []
    for batch in Runner.build_dataloader(config.train_dataloader, seed=0):
        batches.append(batch)
        inputs.append(preprocess(model, batch, True))
        if sum(len(images) for images, _ in inputs) >= args.num_images:
            break
    moments = moments_of(model, inputs)
    start = loss_p(model, moments)

    seconds = []
    for _ in range(3):
        for denoiser in denoisers(model).values():
            nn.init.zeros_(denoiser.weight)
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


def main() -> None:
    run_tool(parse_args, run)


def times(course, loss: float, seconds: float) -> str:
    """How many times calibration's time it took to a loss."""
    index = course.reach(loss)
    return (
        f'> {course.seconds[-1] / seconds:.0f} x'
        if index is None
        else (f'{course.seconds[index] / seconds:.1f} x')
    )
