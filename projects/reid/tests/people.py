"""Drawn persons in the layouts of the four data sets; no photograph is needed."""

from pathlib import Path
from typing import Iterable, Tuple

import numpy as np
from PIL import Image, ImageDraw

#: A person, a camera (from 1) and a number.
Shot = Tuple[int, int, int]


def draw(person: int, camera: int, shot: int, size=(64, 128)) -> Image.Image:
    """A figure whose clothes belong to the person and whose background to the camera."""
    clothes = np.random.default_rng(person + 1000).integers(30, 226, (3, 3))
    rng = np.random.default_rng((person + 1, camera, shot))
    tone = np.random.default_rng(camera).integers(60, 190, 3)
    width, height = size
    image = Image.new('RGB', size, tuple(int(c) for c in tone))
    pen = ImageDraw.Draw(image)
    x = width // 2 + int(rng.integers(-width // 10, width // 10 + 1))
    half = width // 5 + person % 3
    light = rng.uniform(0.8, 1.1)
    colours = [tuple(int(min(255, c * light)) for c in part) for part in clothes]
    pen.ellipse([x - half // 2, height // 16, x + half // 2, height // 5], fill=(205, 170, 140))
    pen.rectangle([x - half, height // 5, x + half, height * 11 // 20], fill=colours[0])
    for side in (-1, 1):
        left, right = sorted((x, x + side * half))
        pen.rectangle([left + 1, height * 11 // 20, right - 1, height * 19 // 20], fill=colours[1])
    if person % 2:
        pen.rectangle([x + half, height // 3, x + half + width // 8, height // 2], fill=colours[2])
    return image


def shots(people: Iterable[int], cameras: int, number: int = 2) -> Iterable[Shot]:
    return [(p, c, s) for p in people for c in range(1, cameras + 1) for s in range(number)]


def write_market(root: Path, train: Iterable[Shot], query=(), gallery=(), name=None) -> Path:
    """Market-1501's folders; ``name`` formats file names, for the sets that are laid out alike."""
    name = name or '{0:04d}_c{1}s1_{2:06d}_00.jpg'
    for folder, part in (
        ('bounding_box_train', train),
        ('query', query),
        ('bounding_box_test', gallery),
    ):
        (root / folder).mkdir(parents=True)
        (root / folder / 'Thumbs.db').write_bytes(b'')
        for shot in part:
            draw(*shot).save(root / folder / name.format(*shot))
    return root


def write_msmt17(root: Path, version: str, **lists: Iterable[Shot]) -> Path:
    """MSMT17's folders and lists, from shots by the name of their list."""
    train, test = dict(V1=('train', 'test'), V2=('mask_train_v2', 'mask_test_v2'))[version]
    for part, found in lists.items():
        lines = []
        for person, camera, shot in found:
            relative = f'{person:04d}/{person:04d}_{shot:03d}_{camera:02d}_0303morning_0015_0.jpg'
            path = root / (train if part in ('train', 'val') else test) / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(person, camera, shot).save(path)
            lines.append(f'{relative} {person}\n')
        (root / f'list_{part}.txt').write_text(''.join(lines))
    return root
