"""Training of denoisers inside MMEngine's Runner."""

import os.path as osp
import types
from typing import Dict, List, Optional

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn

from ..calibration import calibrate
from ..conversion import denoisers, record_noise_losses
from ..denoiser import one_weight_per_step
from ..fusion import fuse_checkpoint
from ..initialization import initialize_as_stock
from ..models.minus import feature_denoisers
from ..registry import HOOKS

MODES = ('label-aug', 'label-free', 'alternating')
INITS = ('zero', 'calibrated')


@HOOKS.register_module()
class DenoiseRepHook(Hook):
    r"""Trains the denoisers of a model and freezes the rest.

    In every mode the layers run with the fused weight :math:`W A`: what is trained is what is
    deployed.

    - ``label-aug``: Loss = (1 - λ) Loss_l + λ Loss_p, with Loss_l the task's own losses. Only
      the denoisers train; norm layers and the backbone's dropout are in eval mode.
    - ``label-free``: Loss = Loss_p. Runs the backbone alone, without neck, head, labels or a
      graph through it. Annotations may be left out of the pipeline.
    - ``alternating``: ``period`` epochs of ``label-free``, then as many in which the base
      network trains on Loss_l through W A while the denoisers are frozen, and so on.

    Losses are logged as ``loss_denoise`` (λ Loss_p), ``noise_loss`` (the layers' mean) and, to
    the visualization backends, ``noise_loss/<layer>``.

    Args:
        mode (str): See above. Defaults to 'label-aug'.
        lambda_ (float): λ in [0, 1), used in ``label-aug`` only. Defaults to 0.1.
        period (int): Length of a phase of ``alternating``, in epochs, or in iterations under an
            iteration-based loop. Defaults to 10.
        max_tokens (int, optional): Most tokens of a layer's input on which its noise loss is
            estimated in a step; None takes all. Defaults to 256.
        init (str): 'zero' starts at the stock model; 'calibrated' at the closed form, from one pass
            over training images. Denoisers that a checkpoint brings are kept. Defaults to 'zero'.
        calibration_images (int): Images of that pass, over all processes. Defaults to 512.
        log_interval (int): Iterations between two logs of the layers' losses. Defaults to 50.
        fuse (bool): Whether to write ``fused.pth`` and ``fused.py``, the stock checkpoint and
            config, beside the last checkpoint when training ends. Defaults to True.

    Raises:
        ValueError: If mode or init is unknown or a number is out of range.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        mode: str = 'label-aug',
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
        if (
            min(period, log_interval, calibration_images, 1 if max_tokens is None else max_tokens)
            < 1
        ):
            raise ValueError('period, log_interval, calibration_images, max_tokens: at least 1')
        self.mode = mode
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

    def before_run(self, runner: Runner) -> None:
        model = _unwrapped(runner)
        self._denoisers = denoisers(model)
        # DenoiseRep⁻ trains alike but has nothing to fuse.
        self._fusable = bool(self._denoisers)
        self._denoisers = self._denoisers or feature_denoisers(model)
        if not self._denoisers:
            raise ValueError(
                'DenoiseRepHook found no denoisers in the model; wrap its backbone: '
                "model.backbone = dict(type='mmdenoiserep.DenoiseRepBackbone', module=<backbone>)"
            )
        if self.mode != 'label-aug' and not hasattr(model, 'backbone'):
            raise ValueError(
                f'mode={self.mode!r} runs `model.backbone`, but {type(model).__name__} has none'
            )
        # The backbone sees to its own; this is for an `init_cfg` of the whole model.
        initialize_as_stock(model)
        own = {id(p) for p in self._parameters()}
        self._base = [p for p in model.parameters() if id(p) not in own and p.requires_grad]
        # Before checkpoints are loaded and the loop starts, so that a wrapper for distributed
        # training knows from the first step which parameters have gradients.
        self._enter_phase(runner, self._phase_at(runner))

    def before_train(self, runner: Runner) -> None:
        # Here and not in `before_run`: EMAHook copies the model there, and a copy must not
        # record losses.
        untrained = not any(d.weight.any() for d in self._denoisers.values())
        if self.init == 'calibrated' and self._fusable and untrained:
            share = -(-self.calibration_images // runner.world_size)
            model = _unwrapped(runner)
            # A loader of its own: the sampler of an iteration-based loop can be run through once.
            own = runner.cfg.get('train_dataloader')
            loader = runner.build_dataloader(own, runner.seed) if own else runner.train_dataloader
            seen = calibrate(model, loader, share, training=True)
            runner.logger.info(f'DenoiseRep: calibrated on {seen * runner.world_size} images')
        _install_forward(_unwrapped(runner), self)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None
    ) -> None:
        # The same on every rank, and after a resume.
        self._seed = (runner.seed * 1_000_003 + runner.iter) % 2**63
        phase = self._phase_at(runner)
        if phase != self.phase:
            self._enter_phase(runner, phase)
        if phase != 'base':
            # The loop has called `model.train()`, in which backbones also freeze the parameters
            # of their `frozen_stages`, denoisers included.
            _freeze_norms(_unwrapped(runner))
            _require_grad(self._parameters(), True)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        if not self._noise_losses:
            return
        mean = torch.stack(list(self._noise_losses.values())).mean()
        runner.message_hub.update_scalar('train/noise_loss', mean.item())
        if self.every_n_train_iters(runner, self.log_interval):
            runner.visualizer.add_scalars(
                {f'noise_loss/{name}': loss.item() for name, loss in self._noise_losses.items()},
                step=runner.iter + 1,
            )

    def before_test(self, runner: Runner) -> None:
        found = denoisers(_unwrapped(runner))
        if found and not any(d.weight.any() for d in found.values()):
            runner.logger.warning(
                'the denoisers are untrained (W_D = 0, as from a stock checkpoint): the results '
                "are the stock model's"
            )

    def after_train(self, runner: Runner) -> None:
        model = _unwrapped(runner)
        vars(model).pop('forward', None)
        self._noise_losses = {}
        if self.fuse and self._fusable and runner.rank == 0:
            self._write_fused(runner)

    def losses(self, model: nn.Module, forward, args: tuple, kwargs: dict) -> dict:
        """The loss dict of one training step; ``forward`` is the model's own."""
        self._noise_losses = {}
        if self.phase == 'base' or (self.phase == 'label-aug' and self.lambda_ == 0):
            return forward(*args, **kwargs)
        with one_weight_per_step(self._denoisers if self._fusable else {}), record_noise_losses(
            self._denoisers, self.max_tokens, self._seed
        ) as noise_losses:
            if self.phase == 'label-free':
                with torch.no_grad():
                    model.backbone(kwargs['inputs'] if 'inputs' in kwargs else args[0])
                losses, weight = {}, 1.0
            else:
                losses = forward(*args, **kwargs)
                weight = self.lambda_
        losses = {
            key: _scaled(value, 1 - weight) if 'loss' in key else value
            for key, value in losses.items()
        }
        losses['loss_denoise'] = weight * torch.stack(list(noise_losses.values())).sum()
        self._noise_losses = {name: loss.detach() for name, loss in noise_losses.items()}
        return losses

    def _parameters(self) -> List[nn.Parameter]:
        return [p for d in self._denoisers.values() for p in d.parameters()]

    def _phase_at(self, runner: Runner) -> str:
        if self.mode != 'alternating':
            return self.mode
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        now = runner.epoch if by_epoch else runner.iter
        return 'base' if now // self.period % 2 else 'label-free'

    def _enter_phase(self, runner: Runner, phase: str) -> None:
        self.phase = phase
        _require_grad(self._base, phase == 'base')
        _require_grad(self._parameters(), phase != 'base')
        if is_model_wrapper(runner.model):
            # DistributedDataParallel reduces what required a gradient when it was made.
            module, runner.model = runner.model.module, None
            runner.model = runner.wrap_model(runner.cfg.get('model_wrapper_cfg'), module)
            runner.model.train(module.training)
        runner.logger.info(
            f'DenoiseRep: {phase}, {len(self._denoisers)} denoisers '
            f'({sum(p.numel() for p in self._parameters()) / 1e6:.2f} M parameters), '
            f'{"trained" if phase == "base" else "frozen"} base'
        )

    def _write_fused(self, runner: Runner) -> None:
        last = runner.message_hub.get_info('last_ckpt')
        if last is None or not osp.isfile(last):
            runner.logger.warning(
                'no local checkpoint was saved, so none is fused; use tools/fuse_ckpt.py'
            )
            return
        out = osp.join(osp.dirname(last), 'fused.pth')
        runner.logger.info(str(fuse_checkpoint(runner.cfg, last, out)))


def _unwrapped(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _install_forward(model: nn.Module, hook: DenoiseRepHook) -> None:
    own = type(model).forward

    def forward(self, *args, **kwargs):
        bound = types.MethodType(own, self)
        if kwargs.get('mode') != 'loss':
            return bound(*args, **kwargs)
        return hook.losses(self, bound, args, kwargs)

    model.forward = types.MethodType(forward, model)


def _freeze_norms(model: nn.Module) -> None:
    for module in model.modules():
        if 'running_mean' in module._buffers:  # batch norms of PyTorch, mmcv and others
            module.eval()
    if hasattr(model, 'backbone'):
        model.backbone.eval()


def _require_grad(parameters: List[nn.Parameter], flag: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(flag)
        if not flag:
            parameter.grad = None  # optimizers skip parameters without a gradient


def _scaled(value, factor: float):
    return [factor * v for v in value] if isinstance(value, (list, tuple)) else factor * value
