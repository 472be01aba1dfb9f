"""Images of a config without their labels, as it loads them for testing."""

import copy
import re
from typing import Optional

from mmengine.config import Config, ConfigDict

#: Whose pipeline shows images as they are deployed.
LOADERS = ('test_dataloader', 'val_dataloader')
#: Transforms that load labels: LoadAnnotations, LoadPanopticAnnotations, LoadEmptyAnnotations.
ANNOTATIONS = re.compile(r'Load\w*Annotation')


def unlabelled_loader(config: Config, seed: int, images: Optional[str] = None) -> ConfigDict:
    """A loader of training images under the pipeline of the test set, without its annotations.

    In a random order that the seed gives, each image once. Nothing is augmented: denoisers are
    fitted to the features that the deployed network will see.

    Args:
        config (Config): Of any package of OpenMMLab. Not changed.
        seed (int): Of the order.
        images (str, optional): A folder of images to take instead of the training set.

    Raises:
        ValueError: If the config does not say how images are loaded.
    """
    source = next((config[key] for key in LOADERS if config.get(key)), None)
    if source is None:
        raise ValueError('the config has no test_dataloader, which says how to load images')
    if not images and not config.get('train_dataloader'):
        raise ValueError('the config has no train_dataloader, which names the images')
    loader = copy.deepcopy(source)
    pipeline = [s for s in _pipeline_of(loader.dataset) if not ANNOTATIONS.search(str(s['type']))]
    if images:
        loader.dataset = dict(type='mmdenoiserep.ImageFolder', folder=images, pipeline=[])
    else:
        loader.dataset = copy.deepcopy(config.train_dataloader.dataset)
    loader.dataset = _with_pipeline(loader.dataset, pipeline)
    loader.sampler = dict(type='DefaultSampler', shuffle=True, seed=seed)
    loader.drop_last = False
    loader.pop('batch_sampler', None)  # which may have an order of its own
    return loader


def _pipeline_of(dataset: dict) -> list:
    """The pipeline of a data set, or of the first one in it."""
    while 'dataset' in dataset or dataset.get('datasets'):
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset.get('pipeline') or []


def _with_pipeline(dataset: dict, pipeline: list) -> dict:
    """A data set under another pipeline, without wrappers that repeat or mix its images; those that
    select some of them (MMPretrain's KFoldDataset) stay."""
    if 'datasets' in dataset:
        parts = [_with_pipeline(part, pipeline) for part in dataset['datasets']]
        return dict(dataset, datasets=parts)
    if 'dataset' in dataset:
        inner = _with_pipeline(dataset['dataset'], pipeline)
        return dict(dataset, dataset=inner) if 'num_splits' in dataset else inner
    if 'pipeline' not in dataset:
        return dataset
    if not pipeline:
        raise ValueError('the test_dataloader has no `pipeline`, which says how to load images')
    # MMDetection's sampler of triplets makes a list of images of each item.
    kept = {key: value for key, value in dataset.items() if key != 'triplet_sampler'}
    return dict(kept, pipeline=pipeline)
