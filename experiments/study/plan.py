"""A study as its config states it, and the jobs that it takes."""

import copy
import inspect
import json
import os.path as osp
import re
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from mmengine.config import Config
from mmengine.registry import HOOKS

from experiments.tasks import check_task, task_of, tested_on
from mmdenoiserep import calibrate_checkpoint
from mmdenoiserep.cli import check_loop, load_config
from mmdenoiserep.stock.files import atomic_write

from .arms import Arm, arm_config, check_budget, read_arm
from .jobs import TASKS, Job

KEYS = (
    'baseline',
    'seeds',
    'selection_seeds',
    'metric',
    'replicates',
    'control',
    'extra',
    'arms',
    'ablations',
)


class Study(NamedTuple):
    """Read by :func:`read_study`; see ``docs/study-manual.md`` for the config.

    Attributes:
        root (str): Folder of all results.
        base (Config): The baseline's config.
        seeds (list[int]): A baseline is trained with each, and every arm goes on from each.
        selection_seeds (list[int]): Those on which the validation split chooses.
        metric (str): What chooses, and what the first table shows.
        replicates (int): Bootstrap samples.
        control (str): The arm that has the budget without denoisers.
        extra (dict): Settings of training that goes on from the baseline.
        arms (dict[str, Arm]): What is compared on the test split.
        ablations (dict[str, Arm]): What is compared on the validation split only.
    """

    root: str
    base: Config
    seeds: List[int]
    selection_seeds: List[int]
    metric: str
    replicates: int
    control: str
    extra: dict
    arms: Dict[str, Arm]
    ablations: Dict[str, Arm]

    @property
    def task(self) -> ModuleType:
        """The module that measures."""
        return task_of(self.base, TASKS)

    def baseline_jobs(self, splits: Tuple[str, ...]) -> List[Job]:
        """Training of the baselines."""
        path = osp.join(self.root, 'baseline', 'config.py')
        write_once(path, self.base.pretty_text)
        return [Job(self.baseline_folder(s), path, 'baseline', s, '', splits) for s in self.seeds]

    def arm_jobs(
        self, arm: Arm, values: dict, seeds: Sequence[int], splits: Tuple[str, ...]
    ) -> List[Job]:
        """Training of an arm with one combination of its grid."""
        folder = osp.join(self.root, arm.name, setting_name(values))
        path = osp.join(folder, 'config.py')
        write_once(path, arm_config(self.base, arm, self.extra, values).pretty_text)
        return [
            Job(osp.join(folder, f'seed_{s}'), path, arm.kind, s, self.baseline_folder(s), splits)
            for s in seeds
        ]

    def baseline_folder(self, seed: int) -> str:
        """Where a baseline is."""
        return osp.join(self.root, 'baseline', f'seed_{seed}')


def read_study(config: Config, root: str) -> Study:
    """Read a study config and check all of it: nothing is trained before.

    Raises:
        ValueError: If something is missing, unknown or out of range, or the budgets of arms differ.
    """
    path = config.filename
    spec = read_spec(config, KEYS, ('baseline', 'seeds', 'arms', 'extra'))
    base = read_baseline(spec['baseline'], Path(path).parent)
    if base.get('load_from'):
        raise ValueError(
            f'{spec["baseline"]} has load_from={base.load_from!r}, and a baseline is trained from '
            "the beginning; give a backbone's weights by its init_cfg, or study a trained model as "
            'one that is deployed (docs/study-manual.md)'
        )
    for split in ('val', 'test'):
        check_task(tested_on(copy.deepcopy(base), split), TASKS)
    metrics = task_of(base, TASKS).METRICS
    study = Study(
        root=root,
        base=base,
        seeds=list(spec['seeds']),
        selection_seeds=list(spec.get('selection_seeds') or spec['seeds']),
        metric=spec.get('metric') or next(iter(metrics)),
        replicates=spec.get('replicates', 2000),
        control=spec.get('control', 'continued'),
        extra=spec['extra'],
        arms={name: read_arm(name, arm) for name, arm in spec['arms'].items()},
        ablations={
            name: read_arm(name, arm) for name, arm in (spec.get('ablations') or {}).items()
        },
    )
    check_integer(path, 'replicates', study.replicates, 1)
    arms, control = study.arms, study.control
    if 'baseline' in {**arms, **study.ablations} or set(arms) & set(study.ablations):
        raise ValueError(f'{path}: an arm is named twice, or like the baseline')
    seeds = set(study.seeds)
    if len(seeds) < len(study.seeds) or not set(study.selection_seeds) <= seeds:
        raise ValueError(f'{path}: seeds must differ, and selection_seeds be some of them')
    if control not in arms or arms[control].kind != 'continued':
        raise ValueError(f"{path}: the control {control!r} must be an arm of kind 'continued'")
    if study.metric not in metrics:
        raise ValueError(f'{path}: metric must be one of {tuple(metrics)}, got {study.metric!r}')
    _check_settings(study)
    return study


def read_spec(config: Config, keys: Sequence[str], required: Sequence[str]) -> Dict[str, Any]:
    """What a study config states, by key.

    Raises:
        ValueError: If a key is unknown or missing.
    """
    spec = {key: config[key] for key in config if not key.startswith('_')}
    unknown = sorted(set(spec) - set(keys))
    if unknown:
        raise ValueError(f'{config.filename}: unknown {unknown[0]!r}; known are {keys}')
    for key in required:
        if not spec.get(key):
            raise ValueError(f'{config.filename}: {key!r} is missing')
    return spec


def check_integer(path: str, key: str, value: Any, least: int) -> None:
    """
    Raises:
        ValueError: If it is no integer, or a smaller one.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f'{path}: {key} must be an integer from {least}, got {value!r}')


def read_baseline(baseline: str, folder: Path) -> Config:
    """A config that can be studied: of a known task, with three splits of images of their own.

    Args:
        baseline (str): Its path, from the study config's folder, or ``mmdet::folder/name.py``.
        folder (Path): That folder.

    Raises:
        ValueError: If it cannot.
    """
    base = load_config(baseline if '::' in baseline else str(folder / baseline))
    task_of(base, TASKS)  # refuses
    for part in ('train', 'val', 'test'):
        if not base.get(f'{part}_dataloader'):
            raise ValueError(
                f'{baseline}: a study needs a {part}_dataloader, of a split of its own'
            )
    if base.val_dataloader.dataset == base.test_dataloader.dataset:
        raise ValueError(
            f'{baseline}: validation and test are the same images; what was chosen on them says '
            'nothing about others. Give a test split of its own'
        )
    return base


def _check_settings(study: Study) -> None:
    """Every combination of every grid has the control's budget and a name of its own."""
    everything = {**study.arms, **study.ablations}
    control = study.arms[study.control]
    reference = arm_config(study.base, control, study.extra, control.candidates()[0])
    for arm in everything.values():
        candidates = arm.candidates()
        if len({setting_name(values) for values in candidates}) < len(candidates):
            raise ValueError(f'arm {arm.name!r}: two of its settings are the same')
        for values in candidates:
            config = arm_config(study.base, arm, study.extra, values)
            check_loop(config, arm.name)
            _check_denoising(arm.name, config)
            check_budget(config, arm, reference, study.control)


def _check_denoising(name: str, config: Config) -> None:
    try:
        inspect.signature(calibrate_checkpoint).bind_partial(**config.get('calibration') or {})
        for hook in config.get('custom_hooks') or []:
            if str(hook['type']).endswith('DenoiseRepHook'):
                HOOKS.build(hook)
    except (TypeError, ValueError) as error:
        raise ValueError(f'arm {name!r}: {error}') from error


def setting_name(values: Dict[str, Any]) -> str:
    """A combination of a grid in the name of a folder and in tables."""
    parts = []
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        parts.append(f'{key.split(".")[-1]}={text}')
    return re.sub(r'[^\w=.,+-]+', '_', ','.join(parts)) or 'as-configured'


def write_once(path: str, text: str) -> None:
    """Write a file, unless it says that already."""
    if not osp.isfile(path) or Path(path).read_text() != text:
        with atomic_write(path) as file:
            file.write(text.encode())
