"""Pictures of what the demo did."""

import json
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import mmcv
import numpy as np
import torch
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData
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


def draw_noisy(panels: Dict[str, Tuple[nn.Module, Config]], out: Path, num_images: int = 2) -> None:
    """Draw what models find on the validation images with the most objects, side by side.

    A box is green where it is of an object's class and overlaps it by half at least (each object
    counts once), else red. Objects that are missed have a dotted box.

    Args:
        panels (dict[str, tuple[nn.Module, Config]]): By title: a trained detector, and a config
            whose ``val_dataloader`` gives the images.
        out (Path): The picture to write.
        num_images (int): Rows. Defaults to 2.
    """
    size = (3 * len(panels), 3.2 * num_images)
    figure, grid = plt.subplots(num_images, len(panels), figsize=size, layout='constrained')
    for column, (title, (model, config)) in zip(grid.T, panels.items()):
        loader = Runner.build_dataloader(
            dict(config.val_dataloader, num_workers=0, persistent_workers=False)
        )
        data = loader.dataset
        busiest = sorted(range(len(data)), key=lambda i: -len(data.get_data_info(i)['instances']))
        for axes, index in zip(column, busiest):
            batch = loader.collate_fn([data[index]])
            axes.imshow(batch['inputs'][0].permute(1, 2, 0).numpy()[..., ::-1])
            with torch.no_grad():
                sample = model.test_step(batch)[0].cpu()
            found = sample.pred_instances[sample.pred_instances.scores > 0.3]
            truth = sample.gt_instances
            partners = match(found, truth)
            for box, partner in zip(found.bboxes, partners):
                outline(axes, box, 'red' if partner is None else 'lime')
            missed = set(range(len(truth))) - set(partners)
            for i in missed:
                outline(axes, truth.bboxes[i], 'white', linestyle=':')
            axes.set(xticks=[], yticks=[])
            axes.set_title(f'{title}: {len(truth) - len(missed)} of {len(truth)}', fontsize=9)
    figure.suptitle('green: found, red: wrong or twice, dotted: missed', fontsize=9)
    figure.savefig(out, dpi=100, pil_kwargs=dict(quality=85))
    plt.close(figure)


def match(found: InstanceData, truth: InstanceData) -> List[Optional[int]]:
    """The object that each box is of, or None; the box with the highest score comes first."""
    overlaps = bbox_overlaps(found.bboxes, truth.bboxes)
    overlaps[found.labels[:, None] != truth.labels] = 0
    partners: List[Optional[int]] = [None] * len(found)
    for i in found.scores.argsort(descending=True).tolist():
        free = [j for j in range(len(truth)) if j not in partners and overlaps[i, j] >= 0.5]
        if free:
            partners[i] = max(free, key=lambda j: overlaps[i, j])
    return partners


def outline(axes: plt.Axes, box: torch.Tensor, color: str, **style) -> None:
    """Draw a box (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = box.tolist()
    axes.add_patch(
        plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=color, linewidth=2, **style)
    )
