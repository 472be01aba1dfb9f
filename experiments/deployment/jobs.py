"""One checkpoint of a study and its evaluation, in a folder of its own."""

import hashlib
import json
import os.path as osp
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import set_random_seed

from experiments.robustness.cache import noise_version
from experiments.robustness.measure import load_arrays, save_arrays
from experiments.robustness.noises import CLEAN, Noise, with_noise
from experiments.robustness.plan import TASKS
from experiments.study.jobs import load_model, read_record, write_json
from experiments.tasks import task_of, tested_on
from mmdenoiserep import __version__
from mmdenoiserep.datasets.pairs import insert_behind_loading
from mmdenoiserep.stock.config import without_sync_norms
from mmdenoiserep.stock.sources import read_weights_only

from . import restore  # noqa: F401 - registers
from .makers import make

#: A split of the data, and the noise that it is seen under.
View = Tuple[str, Noise]


class Job(NamedTuple):
    """What a process is to do.

    Attributes:
        folder (str): Where everything goes.
        config (str): The arm's stock config, a file.
        checkpoint (str): The stock checkpoint.
        digest (str): SHA-256 of that.
        kind (str): See :data:`.arms.LABELS`.
        noises (tuple[str]): What the checkpoint is made for.
        options (str): Of the maker, as JSON.
        transform (str): What stands in front of the network, as JSON.
        seed (int): Chooses images, and trains.
        cache (str): Folder of the corrupted images.
        views (tuple[View]): What to evaluate on.
    """

    folder: str
    config: str
    checkpoint: str
    digest: str
    kind: str
    noises: Tuple[str, ...]
    options: str
    transform: str
    seed: int
    cache: str
    views: Tuple[View, ...] = ()

    def fingerprint(self) -> str:
        """Of what is asked for and of the releases that do it, so that no stale result is taken up.

        Not of the images, nor of the code between releases: remove the folder for those.
        """
        parts = (self.digest, self.kind, self.noises, self.options, self.transform, self.seed)
        parts += (__version__, noise_version())
        text = Path(self.config).read_text() + repr(parts)
        return hashlib.sha256(text.encode()).hexdigest()

    def statistics_file(self, view: View) -> str:
        """Where the statistics of a view's images are."""
        return osp.join(self.folder, f'{view[0]}-{str(view[1]).replace(":", "-")}.npz')

    def arrays(self, view: View) -> Optional[Dict[str, np.ndarray]]:
        """The statistics of a view's images, or None."""
        return load_arrays(self.statistics_file(view), self.fingerprint())

    def record(self) -> Dict[str, Any]:
        """What was noted when the checkpoint was made: minutes, threads, a note; or {}."""
        record = read_record(self.folder)
        known = record.get('fingerprint') == self.fingerprint() and osp.isfile(self.robust())
        return record if known else {}

    def missing(self) -> List[View]:
        """What is still to evaluate; with no checkpoint, everything."""
        if not self.record():
            return list(self.views) or [('', CLEAN)]
        return [view for view in self.views if self.arrays(view) is None]

    def run(self) -> None:
        """Do what is missing; complete or not at all, part by part."""
        read_weights_only()  # this is a process of its own
        set_random_seed(self.seed)
        if not self.record():
            self._create()
        views = self.missing()
        if views:
            self._evaluate(views)

    def _create(self) -> None:
        config = Config.fromfile(self.config)
        # A folder of its own: the runner writes its config there, under the file's name.
        config.work_dir = osp.join(self.folder, 'training')
        config.randomness = dict(seed=self.seed)
        # Of an earlier checkpoint:
        for path in (Path(self.folder, 'done.json'), *Path(self.folder).glob('*.npz')):
            path.unlink(missing_ok=True)
        begin = time.perf_counter()
        options = json.loads(self.options)
        out = self.robust()
        note = make(self.kind, config, self.checkpoint, out, list(self.noises), options)
        record = dict(
            fingerprint=self.fingerprint(),
            minutes=(time.perf_counter() - begin) / 60,
            threads=torch.get_num_threads(),
            note=note,
        )
        write_json(osp.join(self.folder, 'done.json'), record)

    def robust(self) -> str:
        """The checkpoint that is made."""
        return osp.join(self.folder, 'robust.pth')

    def view_config(self, view: View) -> Config:
        """The config whose test set is a view."""
        split, noise = view
        config = tested_on(without_sync_norms(Config.fromfile(self.config)), split)
        loader = config.test_dataloader
        # Each goes in front of what was put in before.
        if self.transform != 'null':
            loader.dataset = insert_behind_loading(loader.dataset, json.loads(self.transform))
        loader.dataset = with_noise(loader.dataset, noise, self.cache)
        return config

    def model(self) -> torch.nn.Module:
        """The model with the checkpoint that was made."""
        return load_model(Config.fromfile(self.config), self.robust())

    def _evaluate(self, views: List[View]) -> None:
        model = self.model()
        for view in views:
            config = self.view_config(view)
            arrays = task_of(config, TASKS).collect(model, config)
            save_arrays(self.statistics_file(view), self.fingerprint(), arrays)
