"""Pairs of clean and degraded images, as a config loads them."""

import copy
import itertools
from typing import Any, List, Optional, Sequence, Union

from mmengine.config import Config, ConfigDict
from mmengine.dist import all_gather_object
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from ..calibration import Pair
from ..datasets import collate_pairs
from ..stock.data import unlabelled_loader
from ..stock.model import as_deployed, preprocess

Noise = Union[str, dict]
#: Share of the images on which a solution is judged and not solved.
HELD_BACK = 0.125


def pair_loader(
    loader: dict,
    noise: Sequence[Noise],
    degraded: Optional[str] = None,
    fresh: bool = False,
    leave_out: Sequence[str] = (),
) -> ConfigDict:
    """A loader's config that gives pairs: the clean images of a batch, then the degraded ones.

    Args:
        loader (dict): Config of a data loader. Not changed.
        noise (Sequence[str | dict]): See :func:`mmdenoiserep.transforms.noise_transform`.
        degraded (str, optional): A folder with the degraded images instead.
        fresh (bool): Whether noise is drawn anew each time. Defaults to False.
        leave_out (Sequence[str]): Paths of images that are not to be among them.
    """
    pairs = copy.deepcopy(ConfigDict(loader))
    options = dict(noise=list(noise), degraded=degraded, fresh=fresh, leave_out=list(leave_out))
    pairs.dataset = dict(type='mmdenoiserep.PairDataset', dataset=pairs.dataset, **options)
    pairs.collate_fn = dict(type=collate_pairs)
    return pairs


class Pairs:
    """Preprocessed pairs of random training images under the test pipeline, an eighth held back.

    Which images they are is known, and checked, before one is loaded.

    Args:
        config (Config): The config of the model.
        noise (Sequence[str | dict]): Degradations by name or transform.
        num_images (int): On this process.
        degraded (str, optional): A folder with the degraded images instead of ``noise``.
        images (str, optional): A folder of clean images instead of the training set.
        seed (int): Chooses the images.

    Raises:
        ValueError: If there are fewer than two batches, or two images have one partner.
        FileNotFoundError: If one has none.
    """

    def __init__(
        self,
        config: Config,
        noise: Sequence[Noise],
        num_images: int,
        degraded: Optional[str] = None,
        images: Optional[str] = None,
        seed: int = 0,
    ) -> None:
        loader = pair_loader(unlabelled_loader(config, seed, images), noise, degraded)
        most = max(1, num_images // 2)  # there are to be two batches
        loader.batch_size = min(loader.get('batch_size', 1), 8, most)
        self._loader = Runner.build_dataloader(loader, seed=seed)
        self._dataset = self._loader.dataset
        self._dataset.check_partners()
        chosen = list(itertools.islice(self._loader.sampler, num_images))
        size = loader.batch_size
        batches = [chosen[i : i + size] for i in range(0, len(chosen), size)]
        if len(batches) < 2:
            raise ValueError(
                f'{len(chosen)} images are too few: give at least two batches of {size} '
                '(test_dataloader.batch_size)'
            )
        count = max(1, round(HELD_BACK * len(batches)))
        self._to_solve_on, self._held_back = batches[:-count], batches[-count:]

    def held_back_images(self) -> List[str]:
        """The paths of what is held back on all processes, where the data set knows them."""
        indices = [index for batch in self._held_back for index in batch]
        paths = [self._dataset.path(index) for index in indices]
        every = all_gather_object([path for path in paths if path])
        return [path for part in every for path in part]

    def to_solve_on(self, model: nn.Module) -> List[Pair]:
        """Load what denoisers are solved on; ``model`` preprocesses, on its device."""
        return self._load(self._to_solve_on, model)

    def held_back(self, model: nn.Module) -> List[Pair]:
        """Load what they are judged on."""
        return self._load(self._held_back, model)

    def _load(self, batches: List[List[int]], model: nn.Module) -> List[Pair]:
        source = self._loader
        loader = DataLoader(
            self._dataset,
            batch_sampler=batches,
            num_workers=source.num_workers,
            collate_fn=source.collate_fn,
            worker_init_fn=source.worker_init_fn,
            multiprocessing_context=source.multiprocessing_context,
        )
        return [_pair(batch, model) for batch in loader]


def _pair(batch: Any, model: nn.Module) -> Pair:
    inputs, data_samples = preprocess(model, batch)
    # All are kept: not in the memory of a GPU, nor as views of larger images.
    inputs = as_deployed(model, inputs).contiguous().cpu()
    count = len(inputs) // 2
    return Pair(
        inputs[:count], inputs[count:], None if data_samples is None else data_samples[:count]
    )
