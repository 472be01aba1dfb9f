"""Batches of P persons with K images each."""

from typing import Dict, Iterator, List, Optional, Tuple

import numpy as np
from mmengine.dist import get_dist_info
from mmpretrain.registry import DATA_SAMPLERS
from torch.utils.data import Sampler


@DATA_SAMPLERS.register_module()
class IdentityBatchSampler(Sampler):
    """A batch sampler for triplet losses: P random persons with K images each.

    In an epoch each person's images are shuffled and cut into groups of K (a rest is left out; a
    person with fewer images gets one group, drawn with replacement). Batches take a group of P
    random persons until fewer than P persons have groups left. This is the sampling of Hermans
    et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017.

    The plan of an epoch depends on the seed and the epoch alone: resumed runs repeat it, and all
    processes share it. In distributed training each takes its own P of the P x world size
    persons.

    Args:
        sampler (Sampler): Gives the data set, the seed and the epoch, as
            :class:`mmengine.dataset.DefaultSampler` has them; MMEngine fills it in, as
            ``batch_size``.
        batch_size (int): Images in a batch of one process, P x K.
        num_instances (int): K, images of a person in a batch. Defaults to 4.

    Raises:
        ValueError: If K does not divide the batch size, P is below 2, or the data set has fewer
            persons than the processes need together.

    Examples:
        >>> train_dataloader = dict(
        ...     batch_size=64,
        ...     sampler=dict(type='DefaultSampler', shuffle=True),
        ...     batch_sampler=dict(type='IdentityBatchSampler', num_instances=4))
    """

    def __init__(self, sampler: Sampler, batch_size: int, num_instances: int = 4) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.num_instances = num_instances
        self.rank, self.world_size = get_dist_info()
        if num_instances < 1 or batch_size % num_instances or batch_size // num_instances < 2:
            raise ValueError(
                f'a batch of {batch_size} cannot be made of 2 or more persons with '
                f'{num_instances} images each'
            )
        self.images_of: Dict[int, List[int]] = {}
        dataset = sampler.dataset
        for index in range(len(dataset)):
            self.images_of.setdefault(int(dataset.get_data_info(index)['gt_label']), []).append(
                index
            )
        self.persons = batch_size // num_instances * self.world_size
        if len(self.images_of) < self.persons:
            raise ValueError(
                f'the data set has {len(self.images_of)} persons, but a batch of {batch_size} in '
                f'{self.world_size} process(es) needs {self.persons}'
            )
        self._plan: Optional[Tuple[int, List[List[int]]]] = None

    def __iter__(self) -> Iterator[List[int]]:
        return iter(self._batches())

    def __len__(self) -> int:
        """Batches of this epoch; from epoch to epoch the number can differ a little."""
        return len(self._batches())

    def _batches(self) -> List[List[int]]:
        epoch = self.sampler.epoch
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, self._draw(epoch))
        return self._plan[1]

    def _draw(self, epoch: int) -> List[List[int]]:
        rng = np.random.default_rng((self.sampler.seed, epoch))
        count = self.num_instances
        groups: Dict[int, List[np.ndarray]] = {}
        for person, images in self.images_of.items():
            if len(images) < count:
                drawn = rng.choice(images, count)
            else:
                drawn = rng.permutation(images)[: len(images) // count * count]
            groups[person] = list(drawn.reshape(-1, count))
        batches = []
        share = self.persons // self.world_size
        while len(groups) >= self.persons:
            chosen = rng.choice(list(groups), self.persons, replace=False)
            batch = [groups[person].pop() for person in chosen]
            own = batch[self.rank * share : (self.rank + 1) * share]
            batches.append(np.concatenate(own).tolist())
            groups = {person: rest for person, rest in groups.items() if rest}
        return batches
