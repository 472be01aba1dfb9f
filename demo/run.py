"""The main job on generated data: train a baseline, denoise it, fuse, compare.

First as published, then on noise that is real: the camera gets worse, and a stock checkpoint
becomes a robust stock checkpoint without labels.

Writes everything to work_dirs/demo/ and prints one table. Run it with ``make demo``.
"""

import argparse
import contextlib
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

import torch
from make_shapes import make_shapes
from mmengine.config import Config
from mmengine.runner import Runner
from pictures import draw_noise_losses, draw_noisy, draw_predictions
from progress import ProgressHook
from rich.console import Console
from rich.table import Table
from torch import nn

from mmdenoiserep import fuse_checkpoint
from mmdenoiserep.apis import to_measured_config
from mmdenoiserep.datasets.pairs import insert_behind_loading
from mmdenoiserep.transforms import noise_transform

ROOT = Path(__file__).parent.parent
BASELINE = 'configs/demo/mask-rcnn_swinv2-demo.py'
DENOISEREP = 'configs/demo/mask-rcnn_swinv2-demo_denoiserep.py'
OUT = Path('work_dirs/demo')
NOISE = 'gaussian_noise:3'
CONSOLE = Console(file=sys.stdout)
NULL = open(os.devnull, 'w')  # noqa: SIM115 - stays open, since MMEngine's logger keeps it


class Row(NamedTuple):
    """One line of the table."""

    name: str
    metrics: Dict[str, float]
    model: nn.Module
    difference: Optional[float] = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    os.chdir(ROOT)
    warnings.simplefilter('ignore')  # of other packages, between the bars
    noise_transform(NOISE)  # refuses now, and not behind three trainings
    started = time.time()
    make_shapes(OUT / 'data', seed=args.seed)

    baseline = train('baseline', Config.fromfile(BASELINE), args.seed)
    rows = [test('baseline', Config.fromfile(BASELINE), baseline)]
    for mode in ('label-free', 'label-aug'):
        config = Config.fromfile(DENOISEREP)
        config.custom_hooks[0].update(mode=mode, log_interval=10, fuse=False)
        config.load_from = str(baseline)
        checkpoint = train(mode, config, args.seed)
        fused = checkpoint.with_name('fused.pth')
        report = fuse_checkpoint(config, str(checkpoint), str(fused), force=True)
        rows.append(test(f'{mode}, before fusion', config, checkpoint))
        stock = Config.fromfile(report.config)
        rows.append(test(f'{mode}, fused', stock, fused, report.max_difference))
        draw_noise_losses(checkpoint.parent, OUT / f'noise_loss_{mode}.png')

    robust = train_robust(baseline, args.seed)
    clean = [rows[0], test('robust', Config.fromfile(BASELINE), robust)]
    noisy = [
        test(f'{row.name}, noisy images', noisy_config(), checkpoint)
        for row, checkpoint in zip(clean, (baseline, robust))
    ]
    with only_progress():
        draw_predictions(rows[-1].model, stock, OUT / 'predictions.png')
        stock_model, robust_model = (row.model for row in noisy)
        panels = {
            'stock, clean image': (stock_model, Config.fromfile(BASELINE)),
            'stock, noisy image': (stock_model, noisy_config()),
            'robust, noisy image': (robust_model, noisy_config()),
        }
        draw_noisy(panels, OUT / 'noisy.jpg')
    CONSOLE.print(table(rows, latencies([row.model for row in rows])))
    CONSOLE.print(robust_table(clean, noisy))
    CONSOLE.print(
        f'Pictures: {OUT}/noisy.jpg (stock, robust), {OUT}/predictions.png, '
        f'{OUT}/noise_loss_label-*.png. {(time.time() - started) / 60:.0f} minutes.'
    )


def train_robust(baseline: Path, seed: int) -> Path:
    """The baseline made robust to noise, without labels: a stock checkpoint again."""
    config = to_measured_config(Config.fromfile(BASELINE))
    config.custom_hooks[0].update(mode='label-free', noise=[NOISE], log_interval=25)
    config.custom_hooks[0].calibration_images = 64
    config.load_from = str(baseline)
    epochs = Config.fromfile(DENOISEREP)
    config.train_cfg, config.param_scheduler = epochs.train_cfg, epochs.param_scheduler
    return train('robust', config, seed).with_name('fused.pth')


def noisy_config() -> Config:
    """The baseline's config on noisy images."""
    config = Config.fromfile(BASELINE)
    for loader in (config.test_dataloader, config.val_dataloader):
        loader.dataset = insert_behind_loading(loader.dataset, noise_transform(NOISE))
    return config


def robust_table(clean: List['Row'], noisy: List['Row']) -> Table:
    result = Table(title=f'A worse camera ({NOISE}): 400 images, no labels, no cost')
    for column in ('model', 'box AP, clean images', 'box AP, noisy images', 'recovered'):
        result.add_column(column, justify='left' if column == 'model' else 'right')
    key = 'coco/bbox_mAP'
    lost = clean[0].metrics[key] - noisy[0].metrics[key]
    for row, worse in zip(clean, noisy):
        gained = worse.metrics[key] - noisy[0].metrics[key]
        result.add_row(
            'stock' if row is clean[0] else row.name,
            f'{100 * row.metrics[key]:.1f}',
            f'{100 * worse.metrics[key]:.1f}',
            '' if row is clean[0] or lost <= 0 else f'{100 * gained / lost:.0f} %',
        )
    return result


def train(name: str, config: Config, seed: int) -> Path:
    """Train and return the last checkpoint."""
    config.work_dir = str(OUT / name)
    config.randomness = dict(seed=seed)
    runner = quiet_runner(config, name)
    with only_progress():
        runner.train()
    return Path(runner.message_hub.get_info('last_ckpt'))


def test(name: str, config: Config, checkpoint: Path, difference: Optional[float] = None) -> Row:
    """Measure box and mask AP on the validation images."""
    config.work_dir = str(OUT / 'test')
    config.load_from = str(checkpoint)
    runner = quiet_runner(config, f'test {name}')
    with only_progress():
        metrics = runner.test()
    return Row(name, metrics, runner.model.eval(), difference)


def quiet_runner(config: Config, name: str) -> Runner:
    """A runner whose progress is a bar; its log goes to the file in its work folder."""
    config.experiment_name = f'demo {name} {time.time()}'
    config.visualizer.name = config.experiment_name  # one name, one log: it would be shared
    config.log_level = 'WARNING'
    with only_progress():
        runner = Runner.from_cfg(config)
    runner.register_hook(ProgressHook(name, CONSOLE))
    return runner


@contextlib.contextmanager
def only_progress():
    """Drop what COCO's evaluation prints; the bars go to the console that was opened before."""
    with contextlib.redirect_stdout(NULL):
        yield


@torch.no_grad()
def latencies(models: List[nn.Module], rounds: int = 30) -> List[float]:
    """Median milliseconds of a backbone's forward pass on one image, the models in turn."""
    image = torch.randn(1, 3, 128, 128)
    times: List[List[float]] = [[] for _ in models]
    for _ in range(rounds):
        for model, samples in zip(models, times):  # in turn, so that drift cancels
            begin = time.perf_counter()
            model.backbone(image)
            samples.append(1000 * (time.perf_counter() - begin))
    return [sorted(samples)[rounds // 2] for samples in times]


def table(rows: List[Row], milliseconds: List[float]) -> Table:
    result = Table(title='Mask R-CNN, small SwinV2, generated shapes')
    result.add_column('model')
    for column in ('box AP', 'mask AP', 'parameters', 'backbone latency', 'fused vs. explicit'):
        result.add_column(column, justify='right')
    for row, latency in zip(rows, milliseconds):
        result.add_row(
            row.name,
            f'{100 * row.metrics["coco/bbox_mAP"]:.1f}',
            f'{100 * row.metrics["coco/segm_mAP"]:.1f}',
            f'{sum(p.numel() for p in row.model.parameters()) / 1e6:.3f} M',
            f'{latency:.1f} ms',
            '' if row.difference is None else f'{row.difference:.1e}',
        )
    return result


if __name__ == '__main__':
    main()
