"""The training, validation and test images of a study: they are there, and the last are apart."""

import copy
import os.path as osp
from types import ModuleType
from typing import Dict, Mapping, Sequence

from mmengine.config import Config
from mmengine.registry import init_default_scope

from experiments.robustness.images import (
    build_dataset,
    check_files,
    infos_of,
    paths_of,
    read_images,
)
from experiments.tasks import check_task, tested_on


def check_splits(path: str, base: Config, tasks: Mapping[str, ModuleType], corrupted: bool) -> None:
    """Look at the images of all splits, before anything is made.

    Args:
        path (str): The model's config, for messages.
        base (Config): That config. Not changed.
        tasks (Mapping[str, ModuleType]): See :func:`experiments.tasks.task_of`.
        corrupted (bool): Whether validation and test images are to be corrupted.

    Raises:
        ValueError: If images are missing or cannot be corrupted, with the split; or if test images
            are among the others.
    """
    paths: Dict[str, Sequence[str]] = {}
    init_default_scope(base.get('default_scope') or 'mmengine')  # whose data sets it names
    for split in ('val', 'test', 'train'):
        config = copy.deepcopy(base)
        remedy = f'say where they are in {path}, by {split}_dataloader.dataset.data_root'
        try:
            loader = config.train_dataloader
            if split != 'train':
                loader = tested_on(config, split).test_dataloader
                check_task(config, tasks)
            if corrupted and split != 'train':
                paths[split] = read_images(loader, remedy).paths
            else:
                paths[split] = paths_of(infos_of(build_dataset(loader, remedy)))
                check_files(paths[split], remedy)
        except (OSError, ValueError) as error:
            raise ValueError(f'{split} split: {error}') from error
    check_apart(paths)


def check_apart(paths: Dict[str, Sequence[str]]) -> None:
    """Refuse test images that settings are chosen or models trained on.

    Args:
        paths (dict[str, Sequence[str]]): The files of each split; '' where they are not known.

    Raises:
        ValueError: With an image that is in two splits.
    """
    files = {split: {osp.realpath(p) for p in own if p} for split, own in paths.items()}
    for split in ('val', 'train'):
        shared = sorted(files['test'] & files[split])
        if shared:
            raise ValueError(
                f'{len(shared)} of {len(files["test"])} test images are in the {split} split, too '
                f'({shared[0]}): figures of them would say nothing about others'
            )
