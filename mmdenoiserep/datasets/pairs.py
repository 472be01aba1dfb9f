"""Pairs of a clean image and its degraded version, under one pipeline."""

import copy
import itertools
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Union

import numpy as np
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from torch.utils.data import Dataset

from ..registry import DATASETS
from ..transforms.degrade import DEGRADE, each_noise, noise_transform, seeded
from ..transforms.one_noise import with_generators


@DATASETS.register_module()
class PairDataset(Dataset):
    """A data set twice: as it is, and with noise behind the transform that loads the image.

    Item i is a list [clean, degraded] of what the pipeline packs. Both go through the pipeline with
    the same random numbers, so augmentation does not tell them apart. Image i meets noise i mod
    the number of noises. What hooks change of OpenMMLab's data sets they change of both; what they
    and samplers ask, the clean one answers.

    Args:
        dataset (dict): Config of a data set whose pipeline loads images.
        noise (Sequence[str | dict]): See :func:`mmdenoiserep.transforms.noise_transform` and
            :func:`mmdenoiserep.transforms.each_noise`.
        degraded (str, optional): A folder to take the degraded images from instead, under the
            clean images' names.
        fresh (bool): Whether noise without a seed of its own is drawn anew each time, for training.
            Defaults to False.
        leave_out (Sequence[str]): Paths of images whose items are others, so that an epoch is as
            long, for a data set that tells paths (``get_data_info``). Transforms that mix images
            (mosaic) may still take them.

    Raises:
        ValueError: If a noise is unknown, the pipeline loads no image, the two images of a pair
            differ in size, or all are left out.
        FileNotFoundError: If a clean image has no partner in ``degraded``.
    """

    def __init__(
        self,
        dataset: dict,
        noise: Sequence[Union[str, dict]] = (),
        degraded: Optional[str] = None,
        fresh: bool = False,
        leave_out: Sequence[str] = (),
    ) -> None:
        if bool(noise) == bool(degraded):
            raise ValueError('give either noise or a folder of degraded images')
        steps = [noise_transform(n) for n in each_noise(noise)] or [
            dict(type='mmdenoiserep.LoadDegraded', folder=degraded)
        ]
        if fresh:
            steps = [{'seed': None, **s} if s['type'] == DEGRADE else s for s in steps]
        self.noise = dict(type='mmdenoiserep.OneNoise', transforms=steps)
        self.clean = ROOT_DATASETS.build(copy.deepcopy(dataset))
        self.degraded = ROOT_DATASETS.build(insert_behind_loading(dataset, self.noise))
        self.metainfo = getattr(self.clean, 'metainfo', {})
        #: The items' places in the data set.
        self._places: Sequence[int] = range(len(self.clean))
        if leave_out:
            self._leave_out(set(leave_out))

    def _leave_out(self, paths: Set[str]) -> None:
        kept = [i for i in self._places if self.path(i) not in paths]
        if not kept:
            raise ValueError('all images are held back: there is none to train on')
        others = itertools.cycle(kept)
        staying = set(kept)
        self._places = [i if i in staying else next(others) for i in self._places]

    def full_init(self) -> None:
        """Load the lists of images."""
        for dataset in (self.clean, self.degraded):
            if hasattr(dataset, 'full_init'):
                dataset.full_init()

    def check_partners(self) -> None:
        """See before long work that each image has its own degraded version, where they are files.

        Raises:
            FileNotFoundError: If one has none.
            ValueError: If two have the same.
        """
        noise = ROOT_TRANSFORMS.build(self.noise)
        if not any(hasattr(transform, 'partner') for transform in noise.transforms):
            return
        clean_of: Dict[str, str] = {}
        for i in range(len(self)):
            info = self.get_data_info(i)
            transform = noise.choose(info)
            if hasattr(transform, 'partner'):
                clean, degraded = info['img_path'], transform.partner(info['img_path'])
                if clean_of.setdefault(degraded, clean) != clean:
                    raise ValueError(
                        f'{clean_of[degraded]} and {clean} have one degraded version, {degraded}: '
                        'images go by their names alone, which must differ'
                    )

    def get_data_info(self, index: int) -> dict:
        """What is known of an image before it is loaded, for samplers."""
        return self.clean.get_data_info(self._places[index])

    def path(self, index: int) -> Optional[str]:
        """Where an image is, if the data set tells."""
        tells = hasattr(self.clean, 'get_data_info')
        return self.get_data_info(index).get('img_path') if tells else None

    def get_cat_ids(self, index: int) -> List[int]:
        """The classes in an image, for MMDetection's ClassAwareSampler."""
        return self.clean.get_cat_ids(self._places[index])

    def update_skip_type_keys(self, skip_type_keys: Sequence[str]) -> None:
        """Leave transforms out from now on (MMDetection's YOLOXModeSwitchHook)."""
        for dataset in (self.clean, self.degraded):
            dataset.update_skip_type_keys(skip_type_keys)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_') or name in ('clean', 'degraded'):  # of a copy in the making
            raise AttributeError(name)
        return getattr(self.clean, name)

    @property
    def pipeline(self) -> Any:
        """That of the clean images. Set (PipelineSwitchHook of MMDetection, SwitchRecipeHook of
        MMPretrain), it is both's, within whatever wrappers."""
        return next(_with_pipelines(self.clean)).pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Any) -> None:
        degraded = copy.deepcopy(pipeline)  # each has caches of its own
        places = _behind_loading(type(t).__name__ for t in degraded.transforms)
        if not places:
            raise ValueError(
                f'the pipeline loads no image, behind which noise is added: {pipeline}'
            )
        for place in places:
            degraded.transforms.insert(place, ROOT_TRANSFORMS.build(self.noise))
        for side, own in ((self.clean, pipeline), (self.degraded, degraded)):
            for dataset in _with_pipelines(side):
                dataset.pipeline = own

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, index: int) -> List[Any]:
        seed = str(np.random.randint(2**31))
        pair = []
        for dataset in (self.clean, self.degraded):
            with seeded(seed) as number:  # flips and crops are the same for both
                for transform in with_generators(dataset):
                    transform.set_random_seed(number)
                pair.append(dataset[self._places[index]])
        shapes = [tuple(item['inputs'].shape) for item in pair]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f'clean and degraded image {index} differ in size: {shapes[0]} and {shapes[1]}; '
                'noise must not change the geometry'
            )
        return pair


def _with_pipelines(dataset: Any) -> Iterator[Any]:
    """The data sets in some wrappers that have a pipeline."""
    if hasattr(dataset, 'pipeline'):
        yield dataset
        return
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for part in inner:
        if part is not None:
            yield from _with_pipelines(part)


def collate_pairs(items: Sequence[List[Any]]) -> Any:
    """A batch with the clean images first and their degraded versions behind, in the same order."""
    return pseudo_collate([pair[0] for pair in items] + [pair[1] for pair in items])


def insert_behind_loading(dataset: dict, transform: dict) -> dict:
    """A data set's config with one more transform, behind each that loads an image.

    Raises:
        ValueError: If no pipeline in it loads an image.
    """
    dataset = copy.deepcopy(dataset)
    if not _insert(dataset, transform):
        raise ValueError(
            f'no pipeline of the data set {dataset.get("type")} has a transform LoadImage..., '
            'behind which noise is added'
        )
    return dataset


def _behind_loading(names: Iterable[str]) -> List[int]:
    """Where noise goes in a pipeline, by its transforms' names, the last place first."""
    places = [i + 1 for i, name in enumerate(names) if name.startswith('LoadImage')]
    return places[::-1]


def _insert(node: Any, transform: dict) -> int:
    if isinstance(node, dict):
        count = 0
        pipeline = node.get('pipeline')
        if isinstance(pipeline, list):
            kinds = [step.get('type') for step in pipeline]
            names = (k.split('.')[-1] if isinstance(k, str) else k.__name__ for k in kinds)
            for place in _behind_loading(names):
                pipeline.insert(place, copy.deepcopy(transform))
                count += 1
            # MMDetection's re-identification loads in a TransformBroadcaster.
            inner = [s for s in pipeline if str(s.get('type')).endswith('TransformBroadcaster')]
            count += sum(_insert(dict(pipeline=s['transforms']), transform) for s in inner)
        inner = [node.get('dataset'), *(node.get('datasets') or [])]
        return count + sum(_insert(value, transform) for value in inner if value)
    return 0
