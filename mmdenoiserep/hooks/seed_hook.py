"""Random numbers that depend on the iteration only, so that a resumed run repeats them."""

import random
from typing import Optional

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..registry import HOOKS


@HOOKS.register_module()
class ResumableSeedHook(Hook):
    """Reseed every epoch and iteration from (seed, rank, epoch, iteration).

    MMEngine's checkpoints hold no random state, so a resumed run draws other noise than one that
    ran through. With ``randomness=dict(seed=..., deterministic=True)`` this hook makes both end
    with the same bytes. Without ``deterministic`` it does nothing.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        if not runner.deterministic:
            return
        loader = runner.train_dataloader
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if by_epoch and loader.persistent_workers:
            runner.logger.warning(
                'a resumed run will not repeat this one exactly: persistent workers keep random '
                'state from epoch to epoch; set train_dataloader.persistent_workers=False'
            )
        if not by_epoch and loader.num_workers == 0:
            runner.logger.warning(
                'a resumed run will not repeat this one exactly: without workers, data '
                'augmentation shares its random state with training; set '
                'train_dataloader.num_workers=1 or more'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        self._seed(runner, 0)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None
    ) -> None:
        self._seed(runner, 1)

    def _seed(self, runner: Runner, stream: int) -> None:
        if not runner.deterministic:
            return
        entropy = (runner.seed, get_rank(), runner.epoch, runner.iter, stream)
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
