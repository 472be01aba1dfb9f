"""What each arm of a study does to the config of the baseline."""

import copy
import itertools
from typing import Any, Dict, List, NamedTuple

from mmengine.config import Config

from mmdenoiserep import to_denoiserep_config

#: 'continued' trains the stock model, 'denoiserep' denoisers in it, 'minus' DenoiseRep⁻;
#: 'closed-form' calibrates denoisers and trains nothing.
KINDS = ('continued', 'denoiserep', 'closed-form', 'minus')
KEYS = ('kind', 'options', 'grid', 'unlabelled')


class Arm(NamedTuple):
    """One way to spend the budget that comes after the baseline.

    Attributes:
        name (str): For tables and folders.
        kind (str): One of ``KINDS``.
        options (dict): Settings of the arm's config, by dotted key.
        grid (dict): Lists of values by dotted key: all combinations are tried, and the validation
            split chooses.
        unlabelled (list[dict]): Changes to the training set that each make a further one, of images
            whose labels the arm does not use.
    """

    name: str
    kind: str
    options: Dict[str, Any]
    grid: Dict[str, List[Any]]
    unlabelled: List[dict]

    def candidates(self) -> List[Dict[str, Any]]:
        """All combinations of the grid, by dotted key."""
        return combinations(self.grid)


def combinations(grid: Dict[str, List[Any]]) -> List[Dict[str, Any]]:
    """All combinations of a grid, by key."""
    return [dict(zip(grid, values)) for values in itertools.product(*grid.values())]


def read_grid(name: str, spec: dict) -> Dict[str, List[Any]]:
    """The grid of an arm.

    Raises:
        ValueError: If it is not made of lists.
    """
    grid = dict(spec.get('grid') or {})
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f'arm {name!r}: grid[{key!r}] must be a list of values')
    return grid


def read_arm(name: str, spec: dict) -> Arm:
    """An arm from a study config.

    Raises:
        ValueError: If it has an unknown key or kind, or a grid that is not made of lists.
    """
    unknown = set(spec) - set(KEYS)
    if unknown:
        raise ValueError(f'arm {name!r}: unknown {sorted(unknown)[0]!r}; known are {KEYS}')
    if spec.get('kind') not in KINDS:
        raise ValueError(f'arm {name!r}: kind must be one of {KINDS}, got {spec.get("kind")!r}')
    grid = read_grid(name, spec)
    options = dict(spec.get('options') or {})
    return Arm(name, spec['kind'], options, grid, list(spec.get('unlabelled') or []))


def arm_config(base: Config, arm: Arm, extra: dict, values: Dict[str, Any]) -> Config:
    """The config of an arm, with one combination of its grid.

    Args:
        base (Config): The baseline's. Not changed.
        arm (Arm): The arm.
        extra (dict): The study's settings for training that goes on from the baseline.
        values (dict): Of :meth:`Arm.candidates`.
    """
    config = copy.deepcopy(base)
    config.merge_from_dict(copy.deepcopy(extra))
    if arm.kind in ('denoiserep', 'closed-form', 'minus'):
        config = to_denoiserep_config(config)
    if arm.kind == 'minus':
        config.model.backbone.type = 'mmdenoiserep.DenoiseRepMinus'
    if arm.unlabelled:
        dataset = config.train_dataloader.dataset
        others = []
        for change in arm.unlabelled:
            other = Config(dict(dataset=copy.deepcopy(dataset)))
            other.merge_from_dict(dict(dataset=change))
            others.append(other.dataset)
        config.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[dataset, *others])
    config.merge_from_dict({**arm.options, **values})
    return config


def budget(config: Config) -> Dict[str, Any]:
    """What arms must have in common to be compared: all but optimizer, model and hooks."""
    loop, loader = config.train_cfg, config.train_dataloader
    return dict(
        loop=loop.get('type'),
        by_epoch=loop.get('by_epoch'),
        iterations=loop.get('max_iters'),
        epochs=loop.get('max_epochs'),
        batch_size=loader.batch_size,
        batches_per_step=config.optim_wrapper.get('accumulative_counts', 1),
        sampler=loader.get('sampler'),
        drop_last=loader.get('drop_last'),
        schedule=config.get('param_scheduler'),
        data=loader.dataset,
    )


def check_budget(config: Config, arm: Arm, reference: Config, control: str) -> None:
    """Refuse an arm whose training differs from the control's in more than what is studied.

    Raises:
        ValueError: Naming the arm and what differs.
    """
    if arm.kind == 'closed-form':
        return
    found = budget(config)
    for key, value in budget(reference).items():
        if key == 'data' and arm.unlabelled:
            continue  # more images are what the arm is about
        if found[key] != value:
            raise ValueError(
                f'arm {arm.name!r} and the control {control!r} differ in their budget: {key} is '
                f'{_short(found[key])} and {_short(value)}; put what is meant for all arms into '
                '`extra`'
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 80 else text[:77] + '...'
