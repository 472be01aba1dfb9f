"""Training of denoisers inside MMEngine's Runner."""

import os.path as osp
import types
from contextlib import nullcontext
from typing import Dict, Optional, Sequence

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import Tensor, nn

from ..apis.fit import check_backbone
from ..apis.fuse import fuse_checkpoint
from ..apis.pairs import Noise
from ..calibration import calibrate
from ..calibration.judge import check_keep_clean
from ..conversion import denoisers
from ..models.initialization import redirect_init_weights
from ..registry import HOOKS
from ..stock.config import listed, to_stock_config
from ..stock.data import unlabelled_loader
from ..stock.model import run_backbone, unwrap
from ..training.checkpointing import no_lost_gradients
from ..training.optimizer import fuse_optimizer
from ..training.step import (
    denoising_losses,
    denoising_parameters,
    freeze_base,
    require_grad,
    trained_modules,
)
from ..transforms import each_noise, noise_transform
from .measured_training import (
    MeasuredTraining,
    keep_pairs,
    shared_seed,
    without_labels,
)

MODES = ('label-aug', 'label-free', 'alternating')
INITS = ('zero', 'calibrated')


@HOOKS.register_module()
class DenoiseRepHook(Hook):
    r"""Trains the denoisers of a model and freezes the rest.

    In every mode the layers run with the fused weight :math:`W A` (label-free on few tokens with
    A x, which is the same): what is trained is what is deployed.

    - ``label-aug``: Loss = (1 - λ) Loss_l + λ Loss_p, with Loss_l the task's own losses. Only
      the denoisers train; norm layers and the backbone's dropout are in eval mode.
    - ``label-free``: Loss = Loss_p. Runs the backbone alone, without neck, head, labels or a
      graph through it. Annotations may be left out of the pipeline.
    - With ``noise``, ``label-free`` matches the backbone's output on degraded images to that of
      the stock weights on the clean ones, and ``label-aug`` sees degraded images and adds λ times
      that error. The best denoisers by images that were held back are kept, at their best strength.
    - ``alternating``: ``period`` epochs of ``label-free``, then as many in which the base
      network trains on Loss_l through W A while the denoisers are frozen, and so on.

    Losses are logged as ``loss_denoise`` (λ Loss_p), ``noise_loss`` (the layers' mean) and, to
    the visualization backends, ``noise_loss/<layer>``.

    Args:
        mode (str): See above. Defaults to 'label-aug'.
        noise (Sequence[str | dict]): Degradations that denoisers of measured noise are to take
            out: 'gaussian_noise:3', 'benchmark:3' for all 15 of Michaelis et al., or configs of
            transforms. Defaults to none: the noise is
            Gaussian, and added to features.
        keep_clean (float): κ in [0, 1), the share of clean images with ``noise``. Defaults to 0.5.
        cut_mix (bool): Whether ``label-free`` training with ``noise`` mixes the images of a batch,
            which keeps it from fitting a few images too well. Defaults to False.
        lambda_ (float): λ in [0, 1), used in ``label-aug`` only. Defaults to 0.1.
        period (int): Length of a phase of ``alternating``, in epochs, or in iterations under an
            iteration-based loop. Defaults to 10.
        max_tokens (int, optional): Most tokens of a layer's input on which its noise loss is
            estimated in a step; None takes all. Defaults to 256.
        init (str): 'zero' starts at the stock model; 'calibrated' at the closed form, from one pass
            over training images under the test pipeline, as `tools/calibrate.py` makes. Denoisers
            that a checkpoint brings are kept. Defaults to 'zero'.
        calibration_images (int): Images of that pass, over all processes, and with ``noise`` those
            of which an eighth is held back. Defaults to 512.
        log_interval (int): Iterations between two logs of the layers' losses, and with ``noise``
            between two looks at what is held back. Defaults to 50.
        fuse (bool): Whether to write ``fused.pth`` and ``fused.py``, the stock checkpoint and
            config, beside the last checkpoint when training ends. Defaults to True.

    Raises:
        ValueError: If mode or init is unknown or a number is out of range.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        mode: str = 'label-aug',
        noise: Sequence[Noise] = (),
        keep_clean: float = 0.5,
        cut_mix: bool = False,
        lambda_: float = 0.1,
        period: int = 10,
        max_tokens: Optional[int] = 256,
        init: str = 'zero',
        calibration_images: int = 512,
        log_interval: int = 50,
        fuse: bool = True,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f'mode must be one of {MODES}, got {mode!r}')
        if init not in INITS:
            raise ValueError(f'init must be one of {INITS}, got {init!r}')
        if not 0 <= lambda_ < 1:
            raise ValueError(
                f"lambda_ must be in [0, 1), got {lambda_}; lambda_ = 1 is mode='label-free'"
            )
        if noise and mode == 'alternating':
            raise ValueError("noise goes with mode='label-free' and mode='label-aug'")
        check_keep_clean(keep_clean)
        if not noise and (cut_mix or keep_clean != 0.5):
            raise ValueError('keep_clean and cut_mix go with noise, which is not given')
        numbers = dict(
            period=period,
            max_tokens=max_tokens,
            calibration_images=calibration_images,
            log_interval=log_interval,
        )
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise ValueError(f'{name} must be at least 1, got {value}')
        self.mode = mode
        self.noise = listed(noise)
        self.keep_clean = keep_clean
        self.cut_mix = cut_mix
        self.lambda_ = lambda_
        self.period = period
        self.max_tokens = max_tokens
        self.init = init
        self.calibration_images = calibration_images
        self.log_interval = log_interval
        self.fuse = fuse
        #: What trains now: 'label-aug', 'label-free' or 'base'.
        self.phase: Optional[str] = None
        self._noise_losses: Dict[str, Tensor] = {}
        self._seed: Optional[int] = None
        self._checked = False
        self._measured: Optional[MeasuredTraining] = None

    def before_run(self, runner: Runner) -> None:
        model = _unwrapped(runner)
        self._modules = trained_modules(model)
        # DenoiseRep⁻ trains alike but has nothing to fuse.
        self._fusable = bool(denoisers(model))
        if not self._modules:
            raise ValueError(
                'DenoiseRepHook found no denoisers in the model; wrap its backbone: '
                "model.backbone = dict(type='mmdenoiserep.DenoiseRepBackbone', module=<backbone>)"
            )
        if isinstance(runner._train_loop, BaseLoop):  # and not one that only tests
            self._check_training(runner, model)
            if self.noise:
                self._measured = MeasuredTraining(
                    self._modules,
                    self.noise,
                    self.keep_clean,
                    self.calibration_images,
                    self.init == 'calibrated',
                    self.cut_mix,
                )
        fuse_optimizer(getattr(runner.optim_wrapper, 'optimizer', None))
        # The backbone sees to its own; this is for an `init_cfg` of the whole model.
        redirect_init_weights(model)
        own = {id(p) for p in denoising_parameters(model)}
        self._base = [p for p in model.parameters() if id(p) not in own and p.requires_grad]
        # Before checkpoints are loaded and the loop starts, so that a wrapper for distributed
        # training knows from the first step which parameters have gradients.
        self._enter_phase(runner, self._phase_at(runner))

    def _check_training(self, runner: Runner, model: nn.Module) -> None:
        """Refuse what cannot be trained, before anything is loaded."""
        if self.mode != 'label-aug' and not hasattr(model, 'backbone'):
            raise ValueError(
                f'mode={self.mode!r} runs `model.backbone`, but {type(model).__name__} has none'
            )
        through = self.mode == 'label-aug' or bool(self.noise)
        if through and runner.cfg.get('activation_checkpointing'):
            raise ValueError(
                f'mode={self.mode!r} trains nothing under activation_checkpointing, which loses '
                'the gradient where the base is frozen; set activation_checkpointing=None, or '
                'train label-free without noise'
            )
        if runner.cfg.get('efficient_conv_bn_eval'):
            raise ValueError(
                'efficient_conv_bn_eval computes convolutions without calling them, so denoisers '
                'see nothing; set efficient_conv_bn_eval=None'
            )
        if is_model_wrapper(runner.model):
            if not hasattr(runner, 'wrap_model'):
                raise ValueError(
                    f'{type(runner).__name__} wraps the model where denoisers cannot be put into '
                    'it; in several processes they are trained by the Runner'
                )
            if through and any(getattr(m, 'with_cp', False) for m in model.modules()):
                raise ValueError(
                    f'mode={self.mode!r} uses a weight twice in a step, which with_cp=True does '
                    'not stand in several processes; set with_cp=False, or train label-free '
                    'without noise'
                )
        if self.fuse and self._fusable:
            to_stock_config(runner.cfg)  # refuses now rather than after training
        measured = any(d.cascade.noise == 'measured' for d in denoisers(model).values())
        if measured and not self.noise:
            raise ValueError(
                "the model's denoisers are of measured noise: say which, "
                "DenoiseRepHook(noise=['gaussian_noise:3'])"
            )
        for noise in each_noise(self.noise):
            noise_transform(noise)  # refuses

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self.mode != 'alternating':  # where the base trains as well
            check_backbone(_unwrapped(runner), checkpoint)

    def before_train(self, runner: Runner) -> None:
        # Here and not in `before_run`: EMAHook copies the model there, and a copy must not
        # record losses.
        untrained = not any(m.weight.any() for m in self._modules.values())
        pretrained = 'pretrained' in str(runner.cfg.get('model')).lower()
        pretrained = pretrained or runner._load_from or runner._resume
        if not pretrained and self.mode != 'alternating':
            runner.logger.warning(
                'no checkpoint was loaded: denoisers are trained for a network that is not; give '
                'the stock one by load_from'
            )
        if self._measured is not None:
            self._measured.prepare(runner, _unwrapped(runner))
        elif self.init == 'calibrated' and self._fusable and untrained:
            self._calibrate(runner)
        _install_forward(_unwrapped(runner), self)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None
    ) -> None:
        # The same after a resume. Each rank draws its own noise: gradients are averaged over them.
        # Of 32 bits, since generators of the CPU look at no more.
        self._seed = (runner.seed * 1_000_003 + runner.iter + runner.rank * 2_654_435_761) % 2**32
        phase = self._phase_at(runner)
        if phase != self.phase:
            self._enter_phase(runner, phase)
        if phase != 'base':
            # The loop has called `model.train()`.
            freeze_base(_unwrapped(runner), heads=phase == 'label-aug')
        if phase == 'label-free':
            without_labels(_unwrapped(runner), data_batch)
        if self._measured is not None:
            keep_pairs(_unwrapped(runner))  # other hooks switch augmentation (SwitchRecipeHook)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        if self._measured is not None:
            if self.every_n_train_iters(runner, self.log_interval):
                self._measured.judge(runner, _unwrapped(runner))
            return
        if not self._noise_losses:
            return
        mean = torch.stack(list(self._noise_losses.values())).mean()
        runner.message_hub.update_scalar('train/noise_loss', mean.item())
        if self.every_n_train_iters(runner, self.log_interval):
            runner.visualizer.add_scalars(
                {f'noise_loss/{name}': loss.item() for name, loss in self._noise_losses.items()},
                step=runner.iter + 1,
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._measured is not None and self._measured.best[1]:  # a run that is killed keeps it
            self._measured.save_best(runner)

    def before_test(self, runner: Runner) -> None:
        inserted = denoisers(_unwrapped(runner))
        if inserted and not any(d.weight.any() for d in inserted.values()):
            runner.logger.warning(
                'the denoisers are untrained (W_D = 0, as from a stock checkpoint): the results '
                "are the stock model's"
            )

    def after_train(self, runner: Runner) -> None:
        model = _unwrapped(runner)
        vars(model).pop('forward', None)
        self._noise_losses = {}
        last = runner.message_hub.get_info('last_ckpt')
        if self._measured is not None:
            self._measured.judge(runner, model)
            last = self._measured.restore_best(runner)
        if self.fuse and self._fusable and runner.rank == 0:
            self._write_fused(runner, last)

    def losses(self, model: nn.Module, forward, args: tuple, kwargs: dict) -> dict:
        """The loss dict of one training step; ``forward`` is the model's own."""
        self._noise_losses = {}
        plain = self.phase == 'label-aug' and self.lambda_ == 0 and self._measured is None
        if self.phase == 'base' or plain:
            return forward(*args, **kwargs)
        inputs = kwargs['inputs'] if 'inputs' in kwargs else args[0]
        data_samples = kwargs.get('data_samples', args[1] if len(args) > 1 else None)
        if self._measured is not None:
            lambda_ = 1.0 if self.phase == 'label-free' else self.lambda_
            with nullcontext() if self._checked else no_lost_gradients():
                measured = self._measured.losses(
                    model, inputs, data_samples, lambda_, forward, self._seed or 0
                )
            self._checked = True
            return measured.total
        if self.phase == 'label-free':
            run = lambda: run_backbone(model, inputs, data_samples)  # noqa: E731
            lambda_ = 1.0
        else:
            run = lambda: forward(*args, **kwargs)  # noqa: E731
            lambda_ = self.lambda_
        first = self.phase == 'label-aug' and not self._checked
        with no_lost_gradients() if first else nullcontext():
            losses = denoising_losses(self._modules, run, lambda_, self.max_tokens, self._seed)
        self._checked = True
        self._noise_losses = losses.layers
        return losses.total

    def _phase_at(self, runner: Runner) -> str:
        if self.mode != 'alternating':
            return self.mode
        loop = runner._train_loop  # `train_loop` would build it, and its data need not be there
        if not isinstance(loop, BaseLoop):
            return 'label-free'  # nothing trains
        now = runner.epoch if isinstance(loop, EpochBasedTrainLoop) else runner.iter
        return 'base' if now // self.period % 2 else 'label-free'

    def _enter_phase(self, runner: Runner, phase: str) -> None:
        self.phase = phase
        parameters = denoising_parameters(_unwrapped(runner))
        require_grad(self._base, phase == 'base')
        require_grad(parameters, phase != 'base')
        if is_model_wrapper(runner.model):
            # DistributedDataParallel reduces what required a gradient when it was made.
            module, runner.model = runner.model.module, None
            runner.model = runner.wrap_model(runner.cfg.get('model_wrapper_cfg'), module)
            runner.model.train(module.training)
        runner.logger.info(
            f'DenoiseRep: {phase}, {len(self._modules)} denoisers '
            f'({sum(p.numel() for p in parameters) / 1e6:.2f} M parameters), '
            f'{"trained" if phase == "base" else "frozen"} base'
        )

    def _calibrate(self, runner: Runner) -> None:
        share = -(-self.calibration_images // runner.world_size)
        seed = shared_seed(runner)
        loader = runner.build_dataloader(unlabelled_loader(runner.cfg, seed), seed)
        share = min(share, len(loader.sampler))
        count = calibrate(_unwrapped(runner), loader, share)
        runner.logger.info(f'DenoiseRep: calibrated on {count * runner.world_size} images')

    def _write_fused(self, runner: Runner, last: Optional[str]) -> None:
        if last is None or not osp.isfile(last):
            runner.logger.warning(
                'no local checkpoint was saved, so none is fused; use tools/fuse_ckpt.py'
            )
            return
        out = osp.join(osp.dirname(last), 'fused.pth')
        runner.logger.info(str(fuse_checkpoint(runner.cfg, last, out, force=True)))


def _unwrapped(runner: Runner) -> nn.Module:
    return unwrap(runner.model)


def _install_forward(model: nn.Module, hook: DenoiseRepHook) -> None:
    own = type(model).forward

    def forward(self, *args, **kwargs):
        bound = types.MethodType(own, self)
        if kwargs.get('mode') != 'loss':
            return bound(*args, **kwargs)
        return hook.losses(self, bound, args, kwargs)

    model.forward = types.MethodType(forward, model)
