"""The alternatives that a benchmark compares, as functions to call."""

import copy
from functools import partial
from typing import Callable, Dict, List, NamedTuple, Tuple

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmdenoiserep import calibrate, denoisers, fuse_denoisers, to_stock_config
from mmdenoiserep.apis import to_measured_config
from mmdenoiserep.calibration import Pair, PairPass
from mmdenoiserep.calibration.measured import layers_behind, run_passes
from mmdenoiserep.calibration.memory import images_at_once
from mmdenoiserep.stock.model import build_model, preprocess, run_backbone
from mmdenoiserep.training import (
    denoising_losses,
    freeze_base,
    fuse_optimizer,
    observe_inputs,
    trained_modules,
)

from .dense import DenseFormulation
from .samples import sample
from .timing import Step

#: As :class:`mmdenoiserep.DenoiseRepHook` has them.
LAMBDA, MAX_TOKENS = 0.1, 256


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
        torch.manual_seed(0)
        model = build_model(config, self.size)
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
    inputs, samples = preprocess(model, case.batch())
    extract = getattr(model, 'extract_feat', None)

    def run(_):
        with torch.no_grad(), case.autocast():
            extract(inputs) if extract else run_backbone(model, inputs, samples)

    return Step(run)


def backbone_forward(case: Case) -> Step:
    """The stock backbone's forward pass on a training batch, without gradient."""
    model = case.build('stock')
    model.eval()
    inputs, samples = preprocess(model, case.batch(), True)

    def run(_):
        with torch.no_grad(), case.autocast():
            run_backbone(model, inputs, samples)

    return Step(run)


def stock_step(case: Case) -> Step:
    """A training step of the stock model, as its config says."""
    model = case.build('stock')
    model.train()
    return _training_step(case, model)


def denoising_step(case: Case, mode: str) -> Step:
    """A training step of the denoisers, as :class:`mmdenoiserep.DenoiseRepHook` makes it."""
    model = case.build()
    modules, optimizer = trained_modules(model), _optimizer(case, model)
    fuse_optimizer(optimizer.optimizer)
    seeds = iter(range(2**63))

    def prepare():
        model.train()
        freeze_base(model)
        return case.batch()

    def run(batch):
        with case.autocast():
            data = model.data_preprocessor(batch, True)
            if mode == 'label-free':
                lambda_, forward = (
                    1.0,
                    lambda: run_backbone(model, data['inputs'], data.get('data_samples')),
                )
            else:
                lambda_, forward = LAMBDA, lambda: model(**data, mode='loss')
            losses = denoising_losses(modules, forward, lambda_, MAX_TOKENS, next(seeds))
            loss, _ = model.parse_losses(losses.total)
        optimizer.update_params(loss)

    return Step(run, prepare)


def dense_step(case: Case) -> Step:
    """A label-free step of the formulation that the method was first published in."""
    model = case.build()
    freeze_base(model)
    modules = denoisers(model)
    dense = DenseFormulation(modules).to(case.device)
    optimizer = _optimizer(case, dense)

    def run(batch):
        inputs, samples = preprocess(model, batch, True)
        with torch.no_grad(), case.autocast(), observe_inputs(modules, dense.observe):
            run_backbone(model, inputs, samples)
        optimizer.update_params(dense.loss())

    return Step(run, case.batch)


def calibration_steps(case: Case, num_images: int) -> Dict[str, Step]:
    """Calibration, and inference of the backbone and of the whole model over the same images."""
    model = case.build().eval()
    batches = [case.batch(labelled=False) for _ in range(-(-num_images // case.batch_size))]

    def plain(_):
        with torch.no_grad():
            for batch in batches:
                run_backbone(model, *preprocess(model, batch))

    def whole(_):
        with torch.no_grad():
            for batch in batches:
                model.test_step(copy.deepcopy(batch))

    return {
        'plain inference': Step(plain),
        'whole inference': Step(whole),
        'calibration': Step(lambda _: calibrate(model, batches, num_images)),
        **{
            f'measured noise, {reach}': Step(*_measured_pass(case, reach, batches))
            for reach in ('channel', 'kernel')
        },
    }


def _measured_pass(case: Case, reach: str, batches: List[dict]):
    """All denoisers of measured noise solved, each time from none, in the passes of calibration."""
    config = to_measured_config(to_stock_config(case.config))
    config.model.backbone.reach = reach
    model = case._replace(config=config).build().eval()
    modules = denoisers(model)
    pairs = []
    for batch in batches:
        clean, samples = preprocess(model, batch)
        pairs.append(Pair(clean, clean + torch.randn_like(clean), samples))

    def prepare() -> None:
        for denoiser in modules.values():
            nn.init.zeros_(denoiser.weight)

    prepare()
    streams, _ = layers_behind(model, modules, pairs[0].clean[:1])
    count = sum(len(pair.clean) for pair in pairs)
    at_once = images_at_once(model, pairs[0], count)
    return (lambda _: run_passes(PairPass(model, streams, 0.5, 0.01, 1.0), pairs, at_once)), prepare


def breakdown(case: Case) -> Dict[str, Step]:
    """The parts of a label-free step, each by itself."""
    model = case.build()
    freeze_base(model)
    modules = denoisers(model)
    inputs, samples = preprocess(model, case.batch(), True)
    features: Dict[str, torch.Tensor] = {}
    with torch.no_grad(), observe_inputs(modules, lambda name, _, x: features.update({name: x})):
        run_backbone(model, inputs, samples)

    def fuse(_):
        with torch.no_grad():
            for name, denoiser in modules.items():
                denoiser.cache.forget()
                model.get_submodule(name).weight  # noqa: B018  (computes it)

    def noise(_):
        losses = [d.noise_loss(features[name], MAX_TOKENS) for name, d in modules.items()]
        torch.stack(losses).sum().backward()

    optimizer = _optimizer(case, model)
    fuse_optimizer(optimizer.optimizer)

    def gradients():
        noise(None)

    return {
        'whole step': denoising_step(case, 'label-free'),
        'forward pass': backbone_forward(case),
        'W A of all layers': Step(fuse),
        'noise loss, with its gradient': Step(noise, lambda: model.zero_grad()),
        'optimizer': Step(lambda _: optimizer.optimizer.step(), gradients),
    }


#: The training steps by name, each made by a function of the case.
TRAINING: Dict[str, Callable[[Case], Step]] = {
    'stock step': stock_step,
    'label-aug step': partial(denoising_step, mode='label-aug'),
    'backbone forward': backbone_forward,
    'label-free step': partial(denoising_step, mode='label-free'),
    'dense label-free step': dense_step,
}


def _training_step(case: Case, model: nn.Module) -> Step:
    optimizer = _optimizer(case, model)

    def run(batch):
        with case.autocast():
            model.train_step(batch, optimizer)

    return Step(run, case.batch)


def _optimizer(case: Case, model: nn.Module):
    wrapper = copy.deepcopy(case.config.optim_wrapper)
    # The same work whatever the rate, and random weights do not diverge.
    wrapper.optimizer.lr = 0.0
    return build_optim_wrapper(model, wrapper)
