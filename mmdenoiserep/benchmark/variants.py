"""The alternatives that a benchmark compares, as functions to call."""

import copy
import logging
from functools import partial
from types import SimpleNamespace
from typing import Callable, Dict, NamedTuple, Tuple

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ..calibration import calibrate
from ..config import to_stock_config
from ..conversion import denoisers, fuse_denoisers
from ..denoiser import observe_inputs
from ..hooks import DenoiseRepHook
from .dense import DenseFormulation
from .samples import sample
from .timing import Step


class Case(NamedTuple):
    """A DenoiseRep config and the conditions of a benchmark."""

    config: Config
    size: Tuple[int, int]
    batch_size: int = 1
    device: str = 'cpu'
    amp: bool = False

    def batch(self, labelled: bool = True) -> dict:
        """A batch of random images."""
        return sample(self.config, self.size, labelled, self.batch_size)

    def build(self, kind: str = 'denoiserep') -> nn.Module:
        """The model with random weights: of 'denoiserep', the 'stock' one, or 'minus'."""
        config = self.config if kind == 'denoiserep' else to_stock_config(self.config)
        if kind == 'minus':
            config.model.backbone = dict(
                type='mmdenoiserep.DenoiseRepMinus', module=config.model.backbone
            )
        init_default_scope(config.get('default_scope', 'mmengine'))
        part = copy.deepcopy(config.model)
        if config.get('data_preprocessor'):
            part.setdefault('data_preprocessor', copy.deepcopy(config.data_preprocessor))
        preprocessor = part.get('data_preprocessor') or {}
        if preprocessor.get('size'):  # to which training pads
            preprocessor.size = self.size
        torch.manual_seed(0)
        model = MODELS.build(part)
        for denoiser in denoisers(model).values():
            nn.init.normal_(denoiser.weight, std=0.1 * denoiser.weight.shape[1] ** -0.5)
        return model.to(self.device)

    def autocast(self) -> torch.autocast:
        """Mixed precision where it is asked for."""
        dtype = torch.float16 if self.device.startswith('cuda') else torch.bfloat16
        return torch.autocast(self.device.split(':')[0], dtype=dtype, enabled=self.amp)


def inference(case: Case) -> Dict[str, nn.Module]:
    """The models whose inference is compared."""
    from mmcv.cnn.utils.fuse_conv_bn import fuse_conv_bn

    unfused = case.build().eval()
    fused = fuse_denoisers(copy.deepcopy(unfused))
    return {
        'baseline': case.build('stock').eval(),
        'DenoiseRep, unfused': unfused,
        'DenoiseRep, fused': fused,
        'DenoiseRep, fused, BN folded': fuse_conv_bn(copy.deepcopy(fused)),
        'DenoiseRep⁻': case.build('minus').eval(),
    }


def forward(case: Case, model: nn.Module) -> Step:
    """The forward pass of backbone and neck in evaluation, without gradient."""
    inputs = model.data_preprocessor(case.batch(), False)['inputs']
    extract = getattr(model, 'extract_feat', None) or model.backbone

    def run(_):
        with torch.no_grad(), case.autocast():
            extract(inputs)

    return Step(run)


def backbone_forward(case: Case) -> Step:
    """The stock backbone's forward pass on a training batch, without gradient."""
    model = case.build('stock')
    model.eval()
    inputs = model.data_preprocessor(case.batch(), True)['inputs']

    def run(_):
        with torch.no_grad(), case.autocast():
            model.backbone(inputs)

    return Step(run)


def stock_step(case: Case) -> Step:
    """A training step of the stock model, as its config says."""
    model = case.build('stock')
    model.train()
    return _training_step(case, model)


def denoising_step(case: Case, mode: str) -> Step:
    """A training step of the denoisers under :class:`DenoiseRepHook`."""
    model = case.build()
    hook = _start(model, mode)
    step = _training_step(case, model)
    runner = SimpleNamespace(seed=0, iter=0, model=model)

    def prepare():
        hook.before_train_iter(runner, 0)
        runner.iter += 1
        return step.prepare()

    return Step(step.run, prepare)


def dense_step(case: Case) -> Step:
    """A label-free step of the formulation that the method was first published in."""
    model = case.build()
    hook = _start(model, 'label-free')
    found = denoisers(model)
    dense = DenseFormulation(found).to(case.device)
    optimizer = build_optim_wrapper(dense, case.config.optim_wrapper.copy())
    hook.before_train_iter(SimpleNamespace(seed=0, iter=0, model=model), 0)
    del vars(model)['forward']

    def run(batch):
        inputs = model.data_preprocessor(batch, True)['inputs']
        with torch.no_grad(), case.autocast(), observe_inputs(found, dense.observe):
            model.backbone(inputs)
        optimizer.update_params(dense.loss())

    return Step(run, case.batch)


def calibration_steps(case: Case, num_images: int) -> Dict[str, Step]:
    """Calibration, and plain inference of the backbone over the same images."""
    model = case.build().eval()
    batches = [case.batch() for _ in range(-(-num_images // case.batch_size))]

    def plain(_):
        with torch.no_grad():
            for batch in batches:
                model.backbone(model.data_preprocessor(batch, False)['inputs'])

    return {
        'plain inference': Step(plain),
        'calibration': Step(lambda _: calibrate(model, batches, num_images)),
    }


def breakdown(case: Case) -> Dict[str, Step]:
    """The parts of a label-free step, each by itself."""
    model = case.build()
    hook = _start(model, 'label-free')
    optimizer = _training_step(case, model)
    found = denoisers(model)
    hook.before_train_iter(SimpleNamespace(seed=0, iter=0, model=model), 0)
    inputs = model.data_preprocessor(case.batch(), True)['inputs']
    features: Dict[str, torch.Tensor] = {}
    with torch.no_grad(), observe_inputs(found, lambda name, _, x: features.update({name: x})):
        model.backbone(inputs)

    def fuse(_):
        with torch.no_grad():
            for name in found:
                model.get_submodule(name).weight  # noqa: B018  (computes it)

    def noise(_):
        losses = [d.noise_loss(features[name], hook.max_tokens) for name, d in found.items()]
        torch.stack(losses).sum().backward()

    return {
        'whole step': optimizer,
        'forward pass': backbone_forward(case),
        'W A of all layers': Step(fuse),
        'noise loss, with its gradient': Step(noise, lambda: model.zero_grad()),
    }


#: The training steps by name, each made by a function of the case.
TRAINING: Dict[str, Callable[[Case], Step]] = {
    'stock step': stock_step,
    'label-aug step': partial(denoising_step, mode='label-aug'),
    'backbone forward': backbone_forward,
    'label-free step': partial(denoising_step, mode='label-free'),
    'dense label-free step': dense_step,
}


def _start(model: nn.Module, mode: str) -> DenoiseRepHook:
    hook = DenoiseRepHook(mode=mode)
    hook.before_run(SimpleNamespace(model=model, logger=logging.getLogger('benchmark')))
    hook.before_train(SimpleNamespace(model=model))
    model.train()
    return hook


def _training_step(case: Case, model: nn.Module) -> Step:
    wrapper = copy.deepcopy(case.config.optim_wrapper)
    # The same work whatever the rate, and random weights do not diverge.
    wrapper.optimizer.lr = 0.0
    optimizer = build_optim_wrapper(model, wrapper)

    def run(batch):
        with case.autocast():
            model.train_step(batch, optimizer)

    return Step(run, case.batch)
