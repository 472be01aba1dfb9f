"""The test images: whether they are there, and how they are loaded."""

import contextlib
import copy
import io
import os.path as osp
from typing import Sequence

from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from PIL import Image

from mmdenoiserep.datasets.pairs import insert_behind_loading

#: The least side that `imagecorruptions` takes, in pixels.
LEAST_SIDE = 32


def build_dataset(config: Config) -> object:
    """The clean test set.

    Raises:
        FileNotFoundError: If its files are missing.
        ValueError: If it is empty.
    """
    remedy = 'say where the test data are with --cfg-options test_dataloader.dataset.data_root=PATH'
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # of pycocotools
            dataset = Runner.build_dataloader(config.test_dataloader).dataset
            if hasattr(dataset, 'full_init'):
                dataset.full_init()
    except (OSError, AssertionError, RuntimeError, ValueError) as error:
        raise FileNotFoundError(f'the test data cannot be read ({error}); {remedy}') from error
    if not len(dataset):
        raise ValueError(f'the test set has no images; {remedy}')
    return dataset


def check_loading(dataset: dict) -> None:
    """Refuse a data set whose images cannot be corrupted behind the transform that loads them.

    Raises:
        ValueError: If none does.
    """
    insert_behind_loading(dataset, dict(type='mmengine.CachedDegrade'))


def check_first(dataset: dict) -> None:
    """Load one image, and refuse what is no image of three channels.

    Raises:
        ValueError: If it is not.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        image = DATASETS.build(cut_behind_loading(dataset))[0]['img']
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f'images are loaded with shape {image.shape}; imagecorruptions needs three channels, '
            'which LoadImageFromFile gives without options'
        )


def check_images(paths: Sequence[str]) -> int:
    """Bytes of all images, three channels of 8 bits, from their headers.

    Raises:
        OSError: If a local file is missing or is no image.
        ValueError: If an image is too small to be corrupted.
    """
    total = 0
    for path in paths:
        if not path or '://' in path:
            continue
        if not osp.isfile(path):
            raise FileNotFoundError(
                f'the test image {path} is missing; say where the images are with --cfg-options '
                'test_dataloader.dataset.data_root=PATH'
            )
        with Image.open(path) as image:
            width, height = image.size
        if min(width, height) < LEAST_SIDE:
            raise ValueError(
                f'the test image {path} is {width}x{height}; imagecorruptions takes no images '
                f'with a side of less than {LEAST_SIDE} pixels'
            )
        total += 3 * width * height
    return total


def cut_behind_loading(dataset: dict) -> dict:
    """A data set's config that gives images as they are loaded, with what noise they have."""
    dataset = copy.deepcopy(dataset)
    for key in ('dataset', 'datasets'):
        if isinstance(dataset.get(key), dict):
            dataset[key] = cut_behind_loading(dataset[key])
        elif dataset.get(key):
            dataset[key] = [cut_behind_loading(part) for part in dataset[key]]
    pipeline = dataset.get('pipeline') or []
    names = [str(getattr(step['type'], '__name__', step['type'])) for step in pipeline]
    kept = [i for i, n in enumerate(names) if n.split('.')[-1].startswith(('LoadImage', 'Cached'))]
    if pipeline:
        dataset['pipeline'] = pipeline[: kept[-1] + 1] if kept else []
    return dataset
