"""Generate images of overlapping textured shapes, in COCO's layout, with boxes and masks."""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Dict, List, Tuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from rich.progress import track

from mmdenoiserep.cli import at_least

CLASSES = ('circle', 'square', 'triangle')
#: Objects of which less is visible are drawn but not annotated.
MIN_VISIBLE_PIXELS = 40


def make_shapes(
    out: Path, num_train: int = 400, num_val: int = 100, seed: int = 0, size: int = 128
) -> None:
    """Write a data set, unless it is there with the same settings.

    The layout is COCO's: ``train/*.png``, ``val/*.png`` and ``annotations/instances_*.json``,
    with run-length encoded masks of what is visible of each object.

    Args:
        out (Path): Folder of the data set.
        num_train (int): Number of training images. Defaults to 400.
        num_val (int): Number of validation images. Defaults to 100.
        seed (int): The same seed gives the same bytes. Defaults to 0.
        size (int): Width and height in pixels. Defaults to 128.
    """
    settings = dict(num_train=num_train, num_val=num_val, seed=seed, size=size)
    marker = out / 'settings.json'
    if marker.is_file() and json.loads(marker.read_text()) == settings:
        print(f'{out} is there already')
        return
    if out.exists() and not marker.is_file() and any(out.iterdir()):
        raise SystemExit(f'{out} holds something else, which would be lost; give another folder')
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent))
    try:
        (temporary / 'annotations').mkdir()
        for stream, (split, count) in enumerate((('train', num_train), ('val', num_val))):
            rng = np.random.default_rng((seed, stream))
            _write_split(temporary, split, count, size, rng)
        (temporary / 'settings.json').write_text(json.dumps(settings))
        temporary.chmod(0o755)  # mkdtemp's folders are for their owner only
        shutil.rmtree(out, ignore_errors=True)
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary)
        raise


def draw_image(
    rng: np.random.Generator, size: int
) -> Tuple[np.ndarray, List[Tuple[int, np.ndarray]]]:
    """Draw one image.

    Returns:
        tuple: The image, uint8 (size, size, 3), and for each object its class and the mask of
        its visible part, bool (size, size).
    """
    image = _texture(rng, size, contrast=0.25)
    objects: List[Tuple[int, np.ndarray]] = []
    for _ in range(rng.integers(1, 6)):
        label = int(rng.integers(len(CLASSES)))
        mask = _shape(rng, label, size)
        image[mask] = _texture(rng, size, contrast=0.6)[mask]
        objects = [(other, visible & ~mask) for other, visible in objects] + [(label, mask)]
    image = image + rng.normal(0, 12, image.shape)
    objects = [(label, mask) for label, mask in objects if mask.sum() >= MIN_VISIBLE_PIXELS]
    return image.clip(0, 255).astype(np.uint8), objects


def _write_split(out: Path, split: str, count: int, size: int, rng: np.random.Generator) -> None:
    (out / split).mkdir()
    images: List[Dict] = []
    annotations: List[Dict] = []
    for image_id in track(range(1, count + 1), description=f'drawing {split} images'):
        image, objects = draw_image(rng, size)
        name = f'{image_id:06d}.png'
        cv2.imwrite(str(out / split / name), image)
        images.append(dict(id=image_id, file_name=name, width=size, height=size))
        for label, mask in objects:
            code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=label + 1,
                    bbox=coco_mask.toBbox(code).tolist(),
                    area=int(mask.sum()),
                    iscrowd=0,
                    segmentation=dict(size=code['size'], counts=code['counts'].decode()),
                )
            )
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (out / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))


def _shape(rng: np.random.Generator, label: int, size: int) -> np.ndarray:
    radius = rng.uniform(0.08, 0.24) * size
    center = rng.uniform(0.6 * radius, size - 0.6 * radius, 2)
    corners = {0: 40, 1: 4, 2: 3}[label]  # a circle is a polygon of many corners
    angles = rng.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners
    stretch = rng.uniform(0.7, 1.0, 2)
    points = center + radius * stretch * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [points.round().astype(np.int32)], 1)
    return mask.astype(bool)


def _texture(rng: np.random.Generator, size: int, contrast: float) -> np.ndarray:
    """Stripes, checks or blotches between two colours, float (size, size, 3)."""
    y, x = np.mgrid[:size, :size]
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 20)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kind = rng.integers(3)
    if kind == 0:
        pattern = np.sin(2 * np.pi * u / period)
    elif kind == 1:
        pattern = np.sign(np.sin(2 * np.pi * u / period) * np.sin(2 * np.pi * v / period))
    else:
        blotches = rng.normal(size=(size // 8, size // 8))
        pattern = np.tanh(cv2.resize(blotches, (size, size), interpolation=cv2.INTER_CUBIC))
    color = rng.uniform(40, 215, 3)
    other = color + contrast * rng.uniform(-160, 160, 3)
    weight = (pattern[..., None] + 1) / 2
    return weight * color + (1 - weight) * other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path, help='folder of the data set')
    parser.add_argument('--num-train', type=at_least(1), default=400)
    parser.add_argument('--num-val', type=at_least(1), default=100)
    parser.add_argument('--seed', type=at_least(0), default=0)
    parser.add_argument('--size', type=at_least(32), default=128, help='width and height in pixels')
    make_shapes(**vars(parser.parse_args()))


if __name__ == '__main__':
    main()
