"""One training step of the denoisers of a model, up to its losses."""

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional

import torch
from torch import Tensor, nn

from ..conversion import denoisers
from ..denoiser import Denoiser
from ..network.bypass import stock_weights
from ..network.observation import NoisePredictor
from ..network.weight_cache import one_weight_per_step
from .noise_loss import record_noise_losses

#: Whose forward in training returns what heads take their loss from and testing has no use for: of
#: MMSegmentation's and MMDetection's backbones, by the names of classes.
RETURNS_MORE = frozenset(('DDRNet', 'PIDNet', 'TridentBottleneck', 'TridentConv'))


class Losses(NamedTuple):
    """The losses of a step.

    Attributes:
        total (dict): The model's own, scaled by 1 - λ, and ``loss_denoise``, λ Loss_p: what
            MMEngine's ``parse_losses`` takes. Entries without 'loss' in their name are as they
            were.
        layers (dict[str, Tensor]): The noise loss of each layer, detached scalars.
    """

    total: Dict[str, Any]
    layers: Dict[str, Tensor]


def trained_modules(model: nn.Module) -> Dict[str, NoisePredictor]:
    """What trains in a model: its denoisers, or where it is DenoiseRep⁻, its feature denoisers."""
    others = {n: m for n, m in model.named_modules() if isinstance(m, NoisePredictor)}
    return dict(denoisers(model)) or others


def denoising_parameters(model: nn.Module) -> List[nn.Parameter]:
    """The parameters that denoising trains: what an optimizer takes."""
    return [p for module in trained_modules(model).values() for p in module.parameters()]


def freeze_base(model: nn.Module, backbone: Optional[nn.Module] = None, heads: bool = True) -> None:
    """Let nothing but the denoisers train: call it after ``model.train()``.

    Parameters of the base stop requiring a gradient. Batch norms, whose statistics a forward pass
    would change, and the backbone, whose dropout is noise of another kind, are in eval mode.

    Args:
        model (nn.Module): The whole model.
        backbone (nn.Module, optional): Defaults to ``model.backbone``, else the whole model.
        heads (bool): Whether the heads' losses will be taken: modules of ``RETURNS_MORE`` return
            what those need then. Defaults to True.
    """
    own = denoising_parameters(model)
    kept = {id(parameter) for parameter in own}
    require_grad([p for p in model.parameters() if id(p) not in kept], False)
    for module in model.modules():
        if 'running_mean' in module._buffers:  # batch norms of PyTorch, mmcv and others
            module.eval()
    backbone = backbone if backbone is not None else getattr(model, 'backbone', model)
    backbone.eval()
    for module in returning_more(backbone) if heads else ():
        module.training = True  # its own flag, not those of the modules in it
    # Last: on `train()` and `eval()` backbones freeze the parameters of their `frozen_stages`,
    # denoisers included.
    require_grad(own, True)


def returning_more(backbone: nn.Module) -> List[nn.Module]:
    """The modules of ``RETURNS_MORE`` in a backbone."""
    names = {m: {kind.__name__ for kind in type(m).__mro__} for m in backbone.modules()}
    return [module for module in names if RETURNS_MORE & names[module]]


def require_grad(parameters: List[nn.Parameter], flag: bool) -> None:
    """Switch gradients on or off, and drop those that are there when off."""
    for parameter in parameters:
        parameter.requires_grad_(flag)
        if not flag:
            parameter.grad = None  # optimizers skip parameters without a gradient


def denoising_losses(
    modules: Mapping[str, NoisePredictor],
    run: Callable[[], Any],
    lambda_: float = 1.0,
    max_tokens: Optional[int] = 256,
    seed: Optional[int] = None,
) -> Losses:
    r"""Run a model once and give Loss = (1 - λ) Loss_l + λ Loss_p, in parts.

    Args:
        modules (dict[str, NoisePredictor]): What trains: :func:`trained_modules`.
        run (Callable): Runs the model. With λ < 1 it returns Loss_l as a dict of losses, as the
            models of OpenMMLab do, or as one scalar. With λ = 1 (label-free) its result is not
            used, no graph is made, and running the backbone is enough.
        lambda_ (float): λ in [0, 1]. Defaults to 1.
        max_tokens (int, optional): Most tokens on which a layer's noise loss is estimated. Defaults
            to 256; None takes all.
        seed (int, optional): See :func:`mmdenoiserep.training.noise_loss.record_noise_losses`.

    Returns:
        Losses: Their sum, ``sum(total.values())`` over the entries with 'loss' in their name, is
        the loss of the step.

    Raises:
        ValueError: If no denoised layer ran, or with 0 < λ < 1 no loss of the model has a gradient:
            reentrant activation checkpointing drops it where the base is frozen.
    """
    caches = [module.cache for module in modules.values() if isinstance(module, Denoiser)]
    with one_weight_per_step(caches), record_noise_losses(modules, max_tokens, seed) as noise:
        if lambda_ == 1:
            # What the last layer puts out reaches no other denoiser: its W A would be for nothing.
            with torch.no_grad(), stock_weights(_last_of(modules)):
                run()
            task: Dict[str, Any] = {}
        else:
            output = run()
            task = output if isinstance(output, dict) else dict(loss=output)
            if not any(_has_graph(value) for key, value in task.items() if 'loss' in key):
                raise ValueError(
                    'no loss of the task has a gradient with respect to the denoisers: activation '
                    'checkpointing loses it where the base is frozen; switch it off '
                    '(activation_checkpointing=None, with_cp=False), or train label-free'
                )
    if not noise:
        raise ValueError('no layer that has a denoiser was run: there is nothing to train on')
    total = scaled(task, 1 - lambda_)
    total['loss_denoise'] = lambda_ * torch.stack(list(noise.values())).sum()
    return Losses(total, {name: loss.detach() for name, loss in noise.items()})


def _last_of(modules: Mapping[str, NoisePredictor]) -> Dict[str, Denoiser]:
    """The denoiser that data passes last, if one does by its step."""
    ordered = [(name, m) for name, m in modules.items() if isinstance(m, Denoiser)]
    if len(ordered) > 1 and ordered[-1][1].step < ordered[-2][1].step:
        return dict(ordered[-1:])
    return {}


def _has_graph(value: Any) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(v, Tensor) and v.requires_grad for v in values)


def scaled(losses: Dict[str, Any], factor: float) -> Dict[str, Any]:
    """A dict of losses with those scaled that have 'loss' in their name."""

    def times(value: Any) -> Any:
        return [factor * v for v in value] if isinstance(value, (list, tuple)) else factor * value

    return {key: times(value) if 'loss' in key else value for key, value in losses.items()}
