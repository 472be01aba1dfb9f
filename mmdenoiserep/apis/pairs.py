"""Pairs of clean and degraded images, as a config loads them."""

import copy
from typing import Iterator, List, Optional, Sequence, Tuple, Union

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from torch import nn

from ..calibration import Pair
from ..datasets import collate_pairs
from ..stock.data import unlabelled_loader
from ..stock.model import as_deployed, preprocess

Noise = Union[str, dict]
#: Share of the images on which a solution is judged and not solved.
HELD_BACK = 0.125


def pair_loader(
    loader: dict, noise: Sequence[Noise], degraded: Optional[str] = None, fresh: bool = False
) -> ConfigDict:
    """A loader's config that gives pairs: the clean images of a batch, then the degraded ones.

    Args:
        loader (dict): Config of a data loader. Not changed.
        noise (Sequence[str | dict]): See :func:`mmdenoiserep.transforms.noise_transform`.
        degraded (str, optional): A folder with the degraded images instead.
        fresh (bool): Whether noise is drawn anew each time. Defaults to False.
    """
    pairs = copy.deepcopy(ConfigDict(loader))
    options = dict(noise=list(noise), degraded=degraded, fresh=fresh)
    pairs.dataset = dict(type='mmdenoiserep.PairDataset', dataset=pairs.dataset, **options)
    pairs.collate_fn = dict(type=collate_pairs)
    return pairs


def load_pairs(
    config: Config,
    model: nn.Module,
    noise: Sequence[Noise],
    num_images: int,
    degraded: Optional[str] = None,
    images: Optional[str] = None,
    seed: int = 0,
    batch_size: Optional[int] = None,
) -> Tuple[List[Pair], List[Pair]]:
    """Preprocessed pairs of random training images under the test pipeline.

    Args:
        config (Config): The config of the model.
        model (nn.Module): Preprocesses, on its device.
        noise (Sequence[str | dict]): Degradations by name or transform.
        num_images (int): On this process.
        degraded (str, optional): A folder with the degraded images instead of ``noise``.
        images (str, optional): A folder of clean images instead of the training set.
        seed (int): Chooses the images.
        batch_size (int, optional): Defaults to that of the config's loader, 8 at most.

    Returns:
        tuple[list[Pair], list[Pair]]: To solve on, and held back: the last eighth.

    Raises:
        ValueError: If there are fewer than two batches.
    """
    loader = pair_loader(unlabelled_loader(config, seed, images), noise, degraded)
    most = max(1, num_images // 2)  # there are to be two batches
    loader.batch_size = batch_size or min(loader.get('batch_size', 1), 8, most)
    batches = Runner.build_dataloader(loader, seed=seed)
    batches.dataset.check_partners()
    pairs = list(_pairs(batches, model, num_images))
    count = max(1, round(HELD_BACK * len(pairs)))
    if len(pairs) < 2:
        raise ValueError(
            f'{sum(len(p.clean) for p in pairs)} images are too few: give at least two batches of '
            f'{loader.batch_size} (test_dataloader.batch_size)'
        )
    return pairs[:-count], pairs[-count:]


def _pairs(loader, model: nn.Module, num_images: int) -> Iterator[Pair]:
    left = num_images
    for batch in loader:
        inputs, data_samples = preprocess(model, batch)
        inputs = as_deployed(model, inputs)
        count = len(inputs) // 2
        keep = min(count, left)
        samples = None if data_samples is None else data_samples[:keep]
        # All of them are kept: not in the memory of a GPU.
        yield Pair(inputs[:keep].cpu(), inputs[count : count + keep].cpu(), samples)
        left -= keep
        if left <= 0:
            return
