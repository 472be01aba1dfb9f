"""Pictures of what the demo did."""

import copy
import json
from pathlib import Path
from typing import List

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch import nn


def draw_noise_losses(work_dir: Path, out: Path) -> None:
    """Plot each layer's noise loss over training from what the hook has logged.

    Args:
        work_dir (Path): Work folder of a training run; its newest log is read.
        out (Path): The picture to write.
    """
    log = max(work_dir.glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_mtime)
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    entries = [e for e in entries if any(k.startswith('noise_loss/') for k in e)]
    names = [key for key in entries[0] if key.startswith('noise_loss/')]
    colors = plt.get_cmap('viridis')(np.linspace(0, 0.95, len(names)))
    figure, axes = plt.subplots(figsize=(9, 5), layout='constrained')
    for name, color in zip(names, colors):
        axes.plot(
            [e['step'] for e in entries],
            [e[name] for e in entries],
            color=color,
            label=name.split('/', 1)[1].replace('backbone.', ''),
        )
    axes.set(xlabel='iteration', ylabel='noise loss (l1)', title=f'Noise loss, {work_dir.name}')
    axes.legend(fontsize=7, ncols=2, title='layer, from step N to step 1')
    figure.savefig(out, dpi=120)
    plt.close(figure)


def draw_predictions(model: nn.Module, config: Config, out: Path, num_images: int = 4) -> None:
    """Draw ground truth (left) and predictions (right) on the first validation images.

    Args:
        model (nn.Module): A trained detector.
        config (Config): Its config, for the validation data.
        out (Path): The picture to write.
        num_images (int): Defaults to 4.
    """
    loader = Runner.build_dataloader(
        dict(config.val_dataloader, num_workers=0, persistent_workers=False)
    )
    visualizer = Visualizer.get_current_instance()
    visualizer.dataset_meta = loader.dataset.metainfo
    visualizer.alpha = 0.3  # masks that let the textures through
    rows = []
    for index in range(num_images):
        batch = loader.collate_fn([loader.dataset[index]])
        with torch.no_grad():
            sample = model.test_step(batch)[0].cpu()
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        visualizer.add_datasample('', image, data_sample=sample, pred_score_thr=0.3)
        rows.append(mmcv.imrescale(visualizer.get_image(), 2.0))
    mmcv.imwrite(np.concatenate(rows)[..., ::-1], str(out))


def draw_noisy(models: List[nn.Module], config: Config, out: Path, num_images: int = 3) -> None:
    """Draw what models find on the noisy validation images with the most objects, side by side.

    Args:
        models (list[nn.Module]): Trained detectors, a column each.
        config (Config): Its ``val_dataloader`` gives the noisy images.
        out (Path): The picture to write.
        num_images (int): Rows. Defaults to 3.
    """
    loader = Runner.build_dataloader(
        dict(config.val_dataloader, num_workers=0, persistent_workers=False)
    )
    visualizer = Visualizer.get_current_instance()
    visualizer.dataset_meta = loader.dataset.metainfo
    visualizer.alpha = 0.3
    data = loader.dataset
    busiest = sorted(range(len(data)), key=lambda i: -len(data.get_data_info(i)['instances']))
    rows = []
    for index in busiest[:num_images]:
        batch = loader.collate_fn([data[index]])
        image = batch['inputs'][0].permute(1, 2, 0).numpy()[..., ::-1]
        panels = []
        for model in models:
            with torch.no_grad():
                sample = model.test_step(copy.deepcopy(batch))[0].cpu()
            visualizer.add_datasample(
                '', np.ascontiguousarray(image), sample, draw_gt=False, pred_score_thr=0.3
            )
            panels.append(mmcv.imrescale(visualizer.get_image(), 3.0))
        rows.append(np.concatenate(panels, axis=1))
    mmcv.imwrite(np.concatenate(rows)[..., ::-1], str(out))
