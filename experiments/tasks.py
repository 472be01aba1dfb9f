"""Which of the tasks that can be measured a config is of."""

from types import ModuleType
from typing import List, Mapping, TypeVar

from mmengine.config import Config

from mmdenoiserep.stock.config import listed

T = TypeVar('T')
REID = 'reid'


def evaluators_of(config: Config) -> List[dict]:
    """Those of the test images, of which a config may name one, several or none."""
    return listed(config.get('test_evaluator'))


def task_of(config: Config, tasks: Mapping[str, T]) -> T:
    """What belongs to a config's task: by its scope, or re-identification by its metric.

    Args:
        config (Config): With ``default_scope``, and ``test_evaluator`` where it is tested.
        tasks (Mapping): By scope, and under :data:`REID`.

    Raises:
        ValueError: If its task is none of them.
    """
    scope = config.get('default_scope')
    types = [evaluator.get('type') for evaluator in evaluators_of(config)]
    if scope == 'mmpretrain' and any(str(t).split('.')[-1] == 'ReIDMetric' for t in types):
        return tasks[REID]
    if scope not in tasks or scope == REID:
        scopes = ', '.join(sorted(set(tasks) - {REID}))
        raise ValueError(
            f'{config.filename}: the default_scope is {scope!r}, but what is measured is known for '
            f'{scopes} (--cfg-options default_scope=mmdet, say)'
        )
    return tasks[scope]


def check_task(config: Config, tasks: Mapping[str, ModuleType]) -> None:
    """Refuse a config that lacks what its task is measured by.

    Raises:
        ValueError, FileNotFoundError: See ``check`` of the task's module, where it has one.
    """
    task = task_of(config, tasks)
    if hasattr(task, 'check'):
        task.check(config)


def tested_on(config: Config, split: str) -> Config:
    """A config whose test set is 'val' or 'test', in the data set's order. Not a copy."""
    if split == 'val':
        config.test_dataloader = config.val_dataloader
        config.test_evaluator = config.get('val_evaluator')
    # All checkpoints see the images in one order: their statistics are compared image by image.
    config.test_dataloader.update(
        sampler=dict(type='DefaultSampler', shuffle=False), drop_last=False
    )
    return config
