"""Pictures of the images that a checkpoint lost most on, and of those that it won back."""

import contextlib
import copy
import io
from pathlib import Path
from typing import Any, List, NamedTuple, Tuple

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from experiments import plots
from experiments.tasks import REID, task_of
from mmdenoiserep.stock.checkpoint import load_exactly

from .images import cut_behind_loading
from .measure import Job, load_statistics
from .noises import CLEAN, Noise
from .plan import Plan

#: Detections below it are not drawn.
LEAST_SCORE = 0.3


class Scene(NamedTuple):
    """An image under a noise, and how good two predictions for it are, in percent."""

    kind: str
    image: int
    noise: Noise
    before: float
    after: float


def draw_pictures(plan: Plan, number: int) -> List[str]:
    """Draw the worst losses and the best recoveries into the folder ``pictures``.

    From the first checkpoint to the last, under the same noise. Where there is but one checkpoint,
    from its prediction without noise to that with it.

    Args:
        plan (Plan): What was measured.
        number (int): Pictures of each kind, at most: there may be fewer losses or recoveries.

    Returns:
        list[str]: The files.
    """
    folder = Path(plan.root, 'pictures')
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ('loss', 'recovery'):
        for old in folder.glob(f'{kind}-*.png'):
            old.unlink()
    out = []
    for kind in ('loss', 'recovery'):
        for rank, scene in enumerate(scenes(plan, kind, number), 1):
            stem = Path(plan.paths[scene.image]).stem or f'image-{scene.image}'
            name = f'{kind}-{rank}_{str(scene.noise).replace(":", "-")}_{stem}.png'
            with contextlib.redirect_stdout(io.StringIO()):  # of pycocotools
                draw(plan, scene, str(folder / name))
            out.append(str(folder / name))
    return out


def views(plan: Plan, noise: Noise) -> Tuple[Job, Job]:
    """What is compared under a noise."""
    first, last = plan.checkpoints[0], plan.checkpoints[-1]
    return Job(first, CLEAN if first is last else noise), Job(last, noise)


def scenes(plan: Plan, kind: str, number: int) -> List[Scene]:
    """The images with the largest changes, each under the noise where its change is largest.

    Args:
        plan (Plan): What was measured.
        kind (str): 'loss' or 'recovery'.
        number (int): How many, at most.
    """
    noises = [noise for noise in plan.noises if noise != CLEAN]
    of_views = np.array(
        [
            [plan.task.of_images(load_statistics(plan, *job)) for job in views(plan, noise)]
            for noise in noises
        ]
    )  # (noises, 2, images)
    gain = np.nan_to_num(of_views[:, 1] - of_views[:, 0])  # no object, no change
    gain = gain if kind == 'recovery' else -gain
    order = np.argsort(-gain.max(0), kind='stable')[:number]
    out = []
    for image in order.tolist():
        row = int(gain[:, image].argmax())
        if gain[row, image] > 0:
            before, after = of_views[row, :, image].tolist()
            out.append(Scene(kind, image, noises[row], before, after))
    return out


def draw(plan: Plan, scene: Scene, path: str) -> None:
    """One picture: the two predictions side by side."""
    pyplot = plots.pyplot()
    jobs = views(plan, scene.noise)
    predictions = [predict(plan, job, scene.image) for job in jobs]
    panels = [
        (f'{job.checkpoint.name}, {job.noise}', image, result)
        for job, (image, result) in zip(jobs, predictions)
    ]
    paint = task_of(plan.config, PAINTERS)
    if paint is paint_map:  # the truth needs a panel of its own
        panels.append(('truth', *predictions[-1]))
    height, width = panels[0][1].shape[:2]
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(5 * len(panels), 5 * height / width + 0.9), squeeze=False
    )
    for axis, (title, image, result) in zip(axes[0], panels):
        axis.imshow(image)
        axis.set_axis_off()
        axis.set_title(title, fontsize=9)
        paint(axis, result, plan, scene.image)
    figure.suptitle(
        f'{scene.kind}: {Path(plan.paths[scene.image]).name}, {plan.task.OF_IMAGES} '
        f'{scene.before:.1f} → {scene.after:.1f}',
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


@torch.no_grad()
def predict(plan: Plan, job: Job, index: int) -> Tuple[np.ndarray, Any]:
    """An image as it was loaded and degraded, (H, W, 3), RGB, and the prediction for it."""
    model = plan.model.to(get_device())
    load_exactly(model, job.checkpoint.weights, job.checkpoint.path)
    loader = copy.deepcopy(plan.config.test_dataloader)
    loader.update(dataset=plan.dataset_with(job.noise), num_workers=0, persistent_workers=False)
    loader.pop('prefetch_factor', None)
    loaded = DATASETS.build(cut_behind_loading(loader.dataset))[index]
    loader = Runner.build_dataloader(loader)
    (result,) = model.test_step(loader.collate_fn([loader.dataset[index]]))
    image = loaded['img'].astype(np.uint8)
    image = np.dstack([image] * 3) if image.ndim == 2 or image.shape[2] == 1 else image
    return image[..., ::-1], result.cpu()


def paint_class(axis: Any, result: Any, plan: Plan, index: int) -> None:
    """The predicted class, green if it is right, and the true one."""
    names = class_names(plan)
    best = int(result.pred_score.argmax())
    truth = int(result.gt_label)
    text = f'{axis.get_title()}\n{names(best)} ({100 * float(result.pred_score[best]):.0f} %)'
    if best != truth:
        text += f', not {names(truth)} ({100 * float(result.pred_score[truth]):.0f} %)'
    axis.set_title(text, fontsize=9, color='green' if best == truth else 'firebrick')


def paint_query(axis: Any, result: Any, plan: Plan, index: int) -> None:
    """Whom the query shows; its ranked list takes the whole gallery."""
    text = f'person {int(result.gt_label)}, camera {int(result.camera)}'
    axis.set_title(f'{axis.get_title()}\n{text}', fontsize=9)


def paint_boxes(axis: Any, result: Any, plan: Plan, index: int) -> None:
    """The detections above ``LEAST_SCORE``, and the truth dashed in white."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    names = class_names(plan)
    for instance in plan.dataset.get_data_info(index).get('instances', []):
        x, y, right, bottom = instance['bbox']
        box = Rectangle((x, y), right - x, bottom - y, fill=False, color='white', linestyle='--')
        axis.add_patch(box)
    found = result.pred_instances
    for box, score, label in zip(
        found.bboxes.numpy(), found.scores.tolist(), found.labels.tolist()
    ):
        if score < LEAST_SCORE:
            continue
        color = colormaps['tab10'](label % 10)
        x, y, right, bottom = box.tolist()
        axis.add_patch(
            Rectangle((x, y), right - x, bottom - y, fill=False, color=color, linewidth=1.6)
        )
        axis.text(
            x,
            y,
            f'{names(label)} {score:.2f}',
            fontsize=7,
            color='white',
            verticalalignment='bottom',
            bbox=dict(facecolor=color, edgecolor='none', pad=1),
            clip_on=True,
        )


def paint_map(axis: Any, result: Any, plan: Plan, index: int) -> None:
    """The predicted classes over the image; in the panel of that name the true ones."""
    from matplotlib import colormaps

    palette = plan.dataset.metainfo.get('palette')
    if not palette:
        palette = (255 * colormaps['tab20'](np.arange(256) % 20)[:, :3]).astype(int)
    field = 'gt_sem_seg' if axis.get_title() == 'truth' else 'pred_sem_seg'
    classes = result.get(field).data.squeeze(0).numpy().astype(int)
    colors = np.zeros((*classes.shape, 4), np.uint8)
    for label, color in enumerate(palette):  # what has no class stays as it is
        colors[classes == label] = (*color, 160)
    axis.imshow(colors)


def class_names(plan: Plan):
    """A function from labels to names."""
    classes = getattr(plan.dataset, 'metainfo', {}).get('classes') or ()
    return lambda label: classes[label] if label < len(classes) else f'class {label}'


PAINTERS = {
    'mmpretrain': paint_class,
    'mmdet': paint_boxes,
    'mmseg': paint_map,
    REID: paint_query,
}
