"""The test images: whether they are there, and how they are loaded."""

import contextlib
import copy
import io
import os
import os.path as osp
from typing import List, NamedTuple, Sequence, Tuple

from mmengine.registry import DATASETS
from mmengine.runner import Runner
from PIL import Image

from mmdenoiserep.datasets.pairs import insert_behind_loading
from mmdenoiserep.transforms.degrade import LEAST as LEAST_SIDE

REMEDY = 'say where they are with --cfg-options test_dataloader.dataset.data_root=PATH'


class Images(NamedTuple):
    """The images of a data set, all of them there and fit to be corrupted.

    Attributes:
        dataset (Dataset): The clean ones.
        infos (list[dict]): What it says of each.
        paths (list[str]): Their files; '' where it does not say.
        num_bytes (int): Uncompressed.
    """

    dataset: object
    infos: List[dict]
    paths: List[str]
    num_bytes: int


def read_images(loader: dict, remedy: str = REMEDY, least: int = LEAST_SIDE) -> Images:
    """Look at all of a loader's images, before any of them is worked with.

    Args:
        loader (dict): Its config.
        remedy (str): What to do where they are not found.
        least (int): The least side of an image, in pixels; with 1 they need no three channels.

    Raises:
        OSError: If files are missing.
        ValueError: If there are none, or they cannot be corrupted.
    """
    check_loading(loader['dataset'])
    dataset = build_dataset(loader, remedy)
    infos = infos_of(dataset)
    paths = paths_of(infos)
    check_files(paths, remedy)
    num_bytes = check_sizes(paths, least)
    if least > 1:
        check_first(loader['dataset'])
    return Images(dataset, infos, paths, num_bytes)


def infos_of(dataset: object) -> List[dict]:
    """What a data set says of each of its images."""
    return [getattr(dataset, 'get_data_info', lambda _: {})(i) for i in range(len(dataset))]


def paths_of(infos: Sequence[dict]) -> List[str]:
    """The images' files; '' where the data set does not say."""
    return [str(info.get('img_path', '')) for info in infos]


def build_dataset(loader: dict, remedy: str = REMEDY) -> object:
    """A loader's data set.

    Raises:
        FileNotFoundError: If its files are missing.
        ValueError: If it is empty.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # of pycocotools
            dataset = Runner.build_dataloader(loader).dataset
            if hasattr(dataset, 'full_init'):
                dataset.full_init()
    except (OSError, AssertionError, RuntimeError, ValueError) as error:
        raise FileNotFoundError(f'the images cannot be read ({error}); {remedy}') from error
    if not len(dataset):
        raise ValueError(f'the data set has no images; {remedy}')
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
    shape = first_shape(dataset)
    if len(shape) != 3 or shape[2] != 3:
        raise ValueError(
            f'images are loaded with shape {shape}; imagecorruptions needs three channels, '
            'which LoadImageFromFile gives without options'
        )


def first_shape(dataset: dict) -> Tuple[int, ...]:
    """The shape of a data set's first image, as it is loaded, with what noise it has."""
    with contextlib.redirect_stdout(io.StringIO()):  # of pycocotools
        return DATASETS.build(cut_behind_loading(dataset))[0]['img'].shape


def stamp(path: str) -> Tuple[int, int]:
    """Size and time of change of a file, which tell it from another under its name; or zeros."""
    if not osp.isfile(path):  # of a remote backend
        return 0, 0
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def check_files(paths: Sequence[str], remedy: str = REMEDY) -> None:
    """Refuse images that are not there.

    Raises:
        FileNotFoundError: If a local file is missing.
    """
    for path in paths:
        if path and '://' not in path and not osp.isfile(path):
            raise FileNotFoundError(f'the image {path} is missing; {remedy}')


def check_sizes(paths: Sequence[str], least: int = LEAST_SIDE) -> int:
    """Bytes of all images, three channels of 8 bits, from their headers.

    Raises:
        OSError: If a local file is no image.
        ValueError: If an image is too small to be corrupted.
    """
    total = 0
    for path in paths:
        if not path or '://' in path:
            continue
        with Image.open(path) as image:
            width, height = image.size
        if min(width, height) < least:
            raise ValueError(
                f'the image {path} is {width}x{height}; imagecorruptions takes no images '
                f'with a side of less than {least} pixels'
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
    kinds = ('LoadImage', 'CachedDegrade', 'OneNoise')
    kept = [i for i, name in enumerate(names) if name.split('.')[-1].startswith(kinds)]
    if pipeline:
        dataset['pipeline'] = pipeline[: kept[-1] + 1] if kept else []
    return dataset
