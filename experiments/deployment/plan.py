"""A study of a deployed model as its config states it, and the jobs that it takes."""

import hashlib
import json
import os.path as osp
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from mmengine.config import Config

from experiments.robustness.noises import CLEAN, Noise, read_corruptions
from experiments.robustness.plan import TASKS
from experiments.splits import check_splits
from experiments.study.jobs import load_model
from experiments.study.plan import read_baseline, read_spec, setting_name, write_once
from experiments.tasks import task_of
from mmdenoiserep.apis.measured_config import set_optimizer, set_schedule
from mmdenoiserep.cli import check_loop
from mmdenoiserep.transforms.degrade import name_of

from .arms import NOISELESS, WITHOUT_DENOISERS, Arm, read_arm, read_names
from .check import check_arms, check_noises, check_numbers, read_transfer
from .jobs import Job, View

KEYS = (
    'model',
    'checkpoint',
    'noises',
    'each_noise',
    'arms',
    'extra',
    'dials',
    'transfer',
    'keep_clean',
    'seed',
    'replicates',
)


class Study(NamedTuple):
    """Read by :func:`read_study`; see ``docs/study-manual.md`` for the config.

    Attributes:
        root (str): Folder of all results.
        base (Config): The model's stock config.
        checkpoint (str): Its stock checkpoint.
        digest (str): SHA-256 of that.
        noises (list[str]): Degradations.
        each_noise (list[str]): Arms that make a checkpoint for each of them; the others make one
            for the first.
        arms (dict[str, Arm]): What is compared on the test images.
        dials (dict[str, Arm]): Arms whose grid is drawn on the validation images.
        transfer (dict): ``arms`` that are also tested under ``noises`` that they did not see.
        keep_clean (float): Weight of clean images where settings are chosen.
        seed (int): Of everything random.
        replicates (int): Bootstrap samples.
    """

    root: str
    base: Config
    checkpoint: str
    digest: str
    noises: List[str]
    each_noise: List[str]
    arms: Dict[str, Arm]
    dials: Dict[str, Arm]
    transfer: Dict[str, List[str]]
    keep_clean: float
    seed: int
    replicates: int

    @property
    def task(self) -> ModuleType:
        """The module that measures."""
        return task_of(self.base, TASKS)

    def measured_under(self, arm: Arm) -> List[str]:
        """The noises that all of an arm's checkpoints together are measured under."""
        if len(arm.noises) == 1:
            return arm.noises
        every = arm.kind == 'stock' or arm.noises or arm.name in self.each_noise
        return self.noises if every else self.noises[:1]

    def targets(self, arm: Arm) -> List[Tuple[str, ...]]:
        """What each of an arm's checkpoints is made for; nothing where noise has no part in it."""
        if arm.kind in NOISELESS:
            return [()]
        if arm.noises:
            return [tuple(arm.noises)]
        return [(noise,) for noise in self.measured_under(arm)]

    def views(self, arm: Arm, target: Sequence[str], split: str) -> List[View]:
        """What one of an arm's checkpoints is measured on: clean images, its noise or the arm's."""
        return views_of(split, target if len(target) == 1 else self.measured_under(arm))

    def groups(self) -> List[Tuple[str, ...]]:
        """The sets of noises that arms can be compared under, the largest first."""
        others = [arm for arm in self.arms.values() if arm.kind != 'stock']
        found = {tuple(self.measured_under(arm)) for arm in others or self.arms.values()}
        return sorted(found, key=lambda noises: (-len(noises), noises))

    def job(
        self, arm: Arm, values: Dict[str, Any], noises: Sequence[str], views: Sequence[View]
    ) -> Job:
        """The job of an arm with one combination of its grid, for some noises."""
        options, changes = arm.split(values)
        # What is of denoisers alone has no place in the stock config that is tested in.
        of_denoisers = 'model.backbone.' if arm.kind not in WITHOUT_DENOISERS else ()
        denoisers = {k: v for k, v in changes.items() if k.startswith(of_denoisers)}
        config = Config.fromfile(self.base.filename)
        if arm.kind == 'matched':  # as tools/train.py --noise does
            set_optimizer(config)
        config.merge_from_dict({k: v for k, v in changes.items() if k not in denoisers})
        if not any(key.startswith('param_scheduler') for key in changes):
            set_schedule(config)  # one for all that train, as long as this one does
        if denoisers:
            config.denoisers = denoisers
        folder = osp.join(self.root, arm.name.replace(' ', '_'))
        if values:
            folder = osp.join(folder, setting_name(values))
        made_for = '+'.join(noise.replace(':', '-') for noise in noises) or 'any'
        folder = osp.join(folder, made_for if len(made_for) < 60 else f'{len(noises)}_noises')
        path = osp.join(folder, 'config.py')
        write_once(path, _text_of(config))
        return Job(
            folder,
            path,
            self.checkpoint,
            self.digest,
            arm.kind,
            tuple(noises),
            json.dumps(options, sort_keys=True),
            json.dumps(arm.transform or None, sort_keys=True),
            self.seed,
            osp.join(self.root, 'corrupted'),
            tuple(views),
        )


_texts: Dict[str, str] = {}


def _text_of(config: Config) -> str:
    """A config's text; most jobs have one of a few configs, and to lay one out takes seconds."""
    key = repr(config.to_dict())
    if key not in _texts:
        _texts[key] = config.pretty_text
    return _texts[key]


def views_of(split: str, noises: Sequence[str]) -> List[View]:
    """A split without noise, and under each of some noises."""
    return [(split, CLEAN), *((split, Noise(*name_of(noise))) for noise in noises)]


def read_study(config: Config, root: str, only: Optional[Sequence[str]] = None) -> Study:
    """Read a study config and check it: nothing is made before.

    Raises:
        ValueError: If something is missing or unknown, or the checkpoint is of another model.
        FileNotFoundError: If a config or the checkpoint is missing.
    """
    path = config.filename
    spec = read_spec(config, KEYS, ('model', 'checkpoint', 'noises', 'arms'))
    if not osp.isfile(spec['checkpoint']):
        raise FileNotFoundError(
            f'there is no checkpoint {spec["checkpoint"]}; {path} says what it is, and '
            '--cfg-options checkpoint=PATH where you have it'
        )
    base = read_baseline(spec['model'], Path(path).parent)
    base.merge_from_dict(dict(spec.get('extra') or {}))
    check_loop(base, path)
    load_model(base, spec['checkpoint'])  # refuses another model's, and registers data sets
    check_splits(spec['model'], base, TASKS, corrupted=True)
    arms, dials = (
        # None takes one of the base config out.
        {name: read_arm(name, arm) for name, arm in part.items() if arm is not None}
        for part in (spec['arms'], spec.get('dials') or {})
    )
    check_arms(path, arms, dials)
    spec = {**dict(keep_clean=0.5, replicates=1000, seed=0), **spec}
    check_numbers(path, spec)
    each_noise, transfer = spec.get('each_noise'), read_transfer(path, spec.get('transfer'))
    each_noise = list(arms) if each_noise is None else read_names(path, 'each_noise', each_noise)
    for key, names in dict(each_noise=each_noise, transfer=transfer['arms']).items():
        strange = [name for name in names if name not in arms]
        if strange:
            state = 'it is None' if strange[0] in spec['arms'] else 'there is none'
            raise ValueError(f'{path}: {key} names an arm {strange[0]!r}, and {state}')
    if only:
        strange = sorted(set(only) - set(arms) - set(dials))
        if strange:
            raise ValueError(
                f'{path} has no arm {strange[0]!r}; it has {", ".join([*arms, *dials])}'
            )
        arms = {name: arm for name, arm in arms.items() if name in {'stock', *only}}
        dials = {name: arm for name, arm in dials.items() if name in only}
    transfer['arms'] = [name for name in transfer['arms'] if name in arms]
    if not transfer['arms']:
        transfer['noises'] = []
    noises = spec['noises']
    if isinstance(noises, str):
        noises = [f'{name}:3' for name in read_corruptions([noises])]
    noises = read_names(path, 'noises', noises)
    check_noises(path, noises, transfer['noises'], arms)
    # Where no other arm is for all of them, stock need not be measured under all of them.
    others = [arm for arm in arms.values() if arm.kind != 'stock']
    if not any(arm.noises[1:] or arm.name in each_noise for arm in others):
        own = [noise for arm in others for noise in arm.noises]
        noises = [noise for noise in noises if noise in (noises[0], *own)]
    copy = osp.join(root, 'model.py')
    write_once(copy, base.pretty_text)
    return Study(
        root=root,
        base=Config.fromfile(copy),
        checkpoint=spec['checkpoint'],
        digest=hashlib.sha256(Path(spec['checkpoint']).read_bytes()).hexdigest(),
        noises=noises,
        each_noise=each_noise,
        arms=arms,
        dials=dials,
        transfer=transfer,
        keep_clean=spec['keep_clean'],
        seed=spec['seed'],
        replicates=spec['replicates'],
    )
