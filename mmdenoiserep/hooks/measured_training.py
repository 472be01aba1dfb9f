"""What :class:`DenoiseRepHook` does where noise is measured."""

import math
import os.path as osp
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from mmengine.dist import broadcast_object_list
from mmengine.runner import Runner
from mmengine.runner.checkpoint import weights_to_cpu
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch import Tensor, nn

from ..apis.pairs import Noise, Pairs, pair_loader
from ..calibration import NothingBetter, Pair, calibrate_measured
from ..calibration.judge import OutputError, Target, output_error, stock_outputs
from ..calibration.search import first_of_level
from ..denoiser import Denoiser
from ..network.observation import NoisePredictor
from ..network.parametrization import PREFIX
from ..stock.checkpoint import load_checkpoint_file, weights_of
from ..stock.files import atomic_write
from ..stock.model import evaluation, unwrap
from ..training.matched import MatchedLosses, cut_mix, matched_losses

#: Of W_D in a state dict, behind the layer's name.
KEY = f'{PREFIX}0.weight'
#: Strengths η of what was trained, A = I + η (A* − I), the preferred one first. Training goes
#: through some images for dozens of times; on others, less of what it found is often better.
STRENGTHS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


class MeasuredTraining:
    """Pairs for a runner's training, the loss on them, and the best denoisers so far.

    Args:
        modules (dict[str, NoisePredictor]): What trains in the model.
        noise (Sequence[str | dict]): Degradations.
        keep_clean (float): κ.
        num_images (int): Images, over all processes, to start from and to judge by.
        calibrated (bool): Whether to start from the closed form.
        mix (bool): Whether images are mixed, where no labels are used.

    Raises:
        ValueError: If the denoisers are not of measured noise.
    """

    def __init__(
        self,
        modules: Mapping[str, NoisePredictor],
        noise: Sequence[Noise],
        keep_clean: float,
        num_images: int,
        calibrated: bool,
        mix: bool,
    ) -> None:
        self.modules = {
            name: module
            for name, module in modules.items()
            if isinstance(module, Denoiser) and module.cascade.noise == 'measured'
        }
        if len(self.modules) < len(modules):
            raise ValueError(
                'DenoiseRepHook(noise=...) trains denoisers of measured noise: give the backbone '
                "noise='measured' (model.backbone.noise=measured)"
            )
        self.noise = list(noise)
        self.keep_clean = keep_clean
        self.num_images = num_images
        self.calibrated = calibrated
        self.mix = mix
        self.held_back: List[Pair] = []
        self._targets: List[Optional[Target]] = []
        #: The least error so far, and the denoisers that made it.
        self.best: Tuple[float, Dict[str, Tensor]] = (math.inf, {})
        #: Of what was trained, that these are: less than 1 at the end alone.
        self.strength = 1.0

    def prepare(self, runner: Runner, model: nn.Module) -> None:
        """Start from the closed form if asked to, and let the loop load pairs."""
        seed = shared_seed(runner)
        share = -(-self.num_images // runner.world_size)
        pairs = Pairs(runner.cfg, self.noise, share, seed=seed)
        loader = pair_loader(
            runner.cfg.train_dataloader,
            self.noise,
            fresh=True,
            leave_out=pairs.held_back_images(),
        )
        loop = runner.train_loop
        rank_seeds = runner._randomness_cfg.get('diff_rank_seed', False)  # as the loop asks
        # Refuses before any long work.
        loop.dataloader = runner.build_dataloader(loader, runner.seed, rank_seeds)
        if hasattr(loop, 'dataloader_iterator'):
            loop.dataloader_iterator = _InfiniteDataloaderIterator(loop.dataloader)
        keep_pairs(model)
        self.held_back = pairs.held_back(model)
        untrained = not any(module.weight.any() for module in self.modules.values())
        start: Dict[str, Tensor] = {}
        if self.calibrated and untrained:
            report, start = self._from_closed_form(model, pairs.to_solve_on(model), seed)
            runner.logger.info(report)
        with evaluation(model):  # of a base that is frozen
            self._targets = stock_outputs(model, self.modules, self.held_back)
        if not untrained:  # what training has to beat are the stock weights here, too
            stock = {n: torch.zeros_like(module.weight) for n, module in self.modules.items()}
            self._judge_others(runner, model, stock)
        if runner.iter > 0:
            self._recall(runner, model)
        self.judge(runner, model)
        if start:  # what training has to beat are the stock weights, where it starts is nearer
            self._put(start)
            self.judge(runner, model)

    def _judge_others(
        self, runner: Runner, model: nn.Module, weights: Mapping[str, Tensor]
    ) -> None:
        own = {name: module.weight.detach().clone() for name, module in self.modules.items()}
        self._put(weights)
        self.judge(runner, model)
        self._put(own)

    @torch.no_grad()
    def _recall(self, runner: Runner, model: nn.Module) -> None:
        """Judge the best denoisers of the run that is resumed."""
        path = self._path(runner)
        found = [osp.isfile(path)]
        broadcast_object_list(found)  # all processes judge, or none
        if not found[0]:
            return
        checkpoint = load_checkpoint_file(path)
        weights = weights_of(checkpoint, path)
        own = {name: module.weight.shape for name, module in self.modules.items()}
        keys = {name: f'{name}.{KEY}' for name in own}
        best = {name: weights[key] for name, key in keys.items() if key in weights}
        if {name: weight.shape for name, weight in best.items()} != own:
            runner.logger.warning(f'{path} is of other denoisers, and is replaced')
            return
        # As it was trained: what it is compared with is of full strength, too.
        strength = checkpoint['meta'].get('strength', 1.0)
        trained = {name: weight / strength for name, weight in best.items()}
        self._judge_others(runner, model, trained)

    def _from_closed_form(
        self, model: nn.Module, pairs: Sequence[Pair], seed: int
    ) -> Tuple[str, Dict[str, Tensor]]:
        """What to say of it, and the denoisers to start from where they are no better than none."""
        try:
            report = calibrate_measured(model, pairs, self.held_back, self.keep_clean, seed=seed)
        except NothingBetter as error:  # training may be
            return f'DenoiseRep: training starts from the closed form, but {error}', error.solution
        return f'DenoiseRep: calibrated on measured noise\n{report}', {}

    def losses(
        self,
        model: nn.Module,
        inputs: Tensor,
        data_samples: Any,
        lambda_: float,
        forward: Callable,
        seed: int,
    ) -> MatchedLosses:
        """The losses of a batch of :func:`.collate_pairs`; ``forward`` is the model's own, and
        ``seed`` mixes images."""
        count = len(inputs) // 2
        clean, degraded = inputs[:count], inputs[count:]
        if self.mix and lambda_ == 1:
            clean, degraded = cut_mix(clean, degraded, seed)
        samples = None if data_samples is None else data_samples[count:]

        def task() -> dict:
            return forward(degraded, samples, mode='loss')

        return matched_losses(
            model,
            self.modules,
            clean,
            degraded,
            samples,
            self.keep_clean,
            lambda_,
            None if lambda_ == 1 else task,
        )

    def judge(self, runner: Runner, model: nn.Module) -> OutputError:
        """Measure the held-back pairs, and remember the denoisers if they are the best so far."""
        error = self._measure(model)
        total = error.total(self.keep_clean)
        if not self.best[1] or total < self.best[0]:
            self.best = (total, {n: m.weight.detach().clone() for n, m in self.modules.items()})
        runner.message_hub.update_scalar('train/output_error_degraded', error.degraded)
        runner.message_hub.update_scalar('train/output_error_clean', error.clean)
        runner.logger.info(
            f'DenoiseRep: held-back output error {error.degraded:.4f} degraded, '
            f'{error.clean:.4f} clean'
        )
        return error

    def _measure(self, model: nn.Module) -> OutputError:
        with evaluation(model):
            return output_error(model, self.modules, self.held_back, self._targets)

    def restore_best(self, runner: Runner) -> str:
        """Put the best denoisers back, at their best strength, and save them as a checkpoint; its
        path."""
        if any(weight.any() for weight in self.best[1].values()):
            self._choose_strength(runner)
        else:
            runner.logger.warning(
                'nothing was better than the stock network on the images that were held back, so '
                'what is kept is the stock network; train for longer, or at a lower learning rate'
            )
        self._put(self.best[1])
        if runner.rank == 0:
            self.save_best(runner)
        return self._path(runner)

    def _choose_strength(self, runner: Runner) -> None:
        def at(strength: float) -> Dict[str, Tensor]:
            return {name: strength * weight for name, weight in trained.items()}

        trained, errors = self.best[1], []
        for strength in STRENGTHS:
            self._put(at(strength))
            errors.append(self._measure(unwrap(runner.model)))
        totals = [error.total(self.keep_clean) for error in errors]
        chosen = first_of_level(totals)
        self.strength = STRENGTHS[chosen]
        self.best = (totals[chosen], at(self.strength))
        runner.logger.info(
            f'DenoiseRep: strength {self.strength:g} of what was trained, held-back '
            f'{errors[chosen]}'
        )

    def save_best(self, runner: Runner) -> None:
        """Write the best denoisers so far, on the first process alone.

        Not by the runner: with an EMAHook it would save an average that was never judged.
        """
        state = weights_to_cpu(unwrap(runner.model).state_dict())
        for name, weight in self.best[1].items():
            state[f'{name}.{KEY}'] = weight.cpu()
        meta = dict(
            cfg=runner.cfg.pretty_text,
            dataset_meta=getattr(runner.train_loop.dataloader.dataset, 'metainfo', None),
            iter=runner.iter,
            seed=runner.seed,
            strength=self.strength,
        )
        with atomic_write(self._path(runner)) as file:
            torch.save(dict(meta=meta, state_dict=state), file)

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in weights.items():
            self.modules[name].weight.copy_(weight)

    @staticmethod
    def _path(runner: Runner) -> str:
        return osp.join(runner.work_dir, 'best.pth')


def keep_pairs(model: nn.Module) -> None:
    """Switch off what is drawn for each image alone, behind the pipeline, and would part pairs."""
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    if hasattr(getattr(preprocessor, 'batch_augments', None), 'augments'):
        preprocessor.batch_augments = None  # MMPretrain's, which mix images of a batch
    if hasattr(preprocessor, 'keep_pairs'):
        preprocessor.keep_pairs()


def without_labels(model: nn.Module, batch: Any) -> None:
    """Switch off what MMDetection does to a batch and its boxes or masks, where it has none."""
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    if getattr(preprocessor, 'batch_augments', None) and samples:
        objects = getattr(samples[0], 'gt_instances', None)
        if objects is not None and 'bboxes' not in objects:
            preprocessor.batch_augments = None


def shared_seed(runner: Runner) -> int:
    """The seed of the first process, for what all are to draw alike (``diff_rank_seed``)."""
    box = [runner.seed or 0]
    broadcast_object_list(box)
    return box[0]
