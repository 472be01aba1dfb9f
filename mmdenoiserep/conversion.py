"""Insert denoisers into a network, look at them, and fuse them into its weights."""

from contextlib import contextmanager
from typing import Dict, Iterator, List, Optional, Sequence

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .denoiser import Denoiser, observe_inputs
from .diffusion import NoiseSchedule
from .targets import select_layers

#: Entry in a state dict's metadata that marks a layer whose weight is already fused.
FUSED_MARK = 'denoiserep_fused'
FUSED_ALREADY = (
    'the checkpoint is fused already and would be denoised twice; load it into the stock config '
    'that was written beside it, or train from the stock checkpoint'
)


def insert_denoisers(
    model: nn.Module,
    targets: Optional[Sequence[str]] = None,
    *,
    schedule: Optional[NoiseSchedule] = None,
    loss: str = 'l1',
    estimate: str = 'previous',
    noise_scale: str = 'unit',
    last_step: int = 1,
    spacing: int = 1,
    depthwise: bool = False,
    example: Optional[Tensor] = None,
) -> nn.Module:
    """Give layers of a network a denoiser each, in place.

    The N layers take the steps t = N, N-1, ..., 1 in the order in which data passes them: the
    network is one reverse diffusion from its input to its output. ``last_step`` and ``spacing``
    stretch that cascade. All denoisers start at zero,
    so the network's outputs do not change. Names of modules do not change either, and
    checkpoints of the stock network still load.

    Args:
        model (nn.Module): A network, usually a backbone.
        targets (Sequence[str], optional): Regular expressions, matched in full against module
            names. By default the feed-forward layers where the network has some, else every
            Linear and Conv2d but the stem's first, whose input is an image and no feature.
        schedule (NoiseSchedule, optional): Defaults to DDPM's, T = 1000.
        loss (str): Penalty of the noise prediction: 'l1', 'l2' or 'l1+l2'. Defaults to 'l1'.
        estimate (str): See :class:`Denoiser`, as for ``noise_scale``.
        last_step (int): Step of the layer that data passes last. Defaults to 1.
        spacing (int): Steps from a layer back to the one before it; with 0 all layers take
            ``last_step``. Defaults to 1.
        depthwise (bool): Whether depthwise convolutions count too. Their denoiser is one number
            a channel, which rescales the channel but cannot denoise it. Defaults to False.
        example (Tensor, optional): An input that the network accepts, for the forward pass that
            finds the order of the layers. By default images of several sizes are tried.

    Returns:
        nn.Module: The same network.

    Raises:
        ValueError: If the network has denoisers already, a target matches nothing, a target is
            never called, or the cascade needs more steps than the schedule has.

    Examples:
        >>> insert_denoisers(model, targets=[r'.*\\.ffn\\..*'])
    """
    if denoisers(model):
        raise ValueError(f'{type(model).__name__} has denoisers already; fuse them first')
    schedule = schedule or NoiseSchedule()
    names = select_layers(model, targets, depthwise, example)
    steps = [last_step + spacing * i for i in reversed(range(len(names)))]
    if last_step < 1 or spacing < 0:
        raise ValueError(
            f'last_step must be at least 1 and spacing at least 0, got {last_step} and {spacing}'
        )
    if steps[0] > schedule.num_steps:
        raise ValueError(
            f'the cascade of {len(names)} layers begins at step {steps[0]}, but the schedule has '
            f'{schedule.num_steps}; narrow `targets`, lower `spacing` or raise `num_steps`'
        )
    for step, name in zip(steps, names):
        layer = model.get_submodule(name)
        attach(layer, Denoiser(layer, step, schedule, loss, estimate, noise_scale))
    print_log(
        f'{len(names)} denoisers inserted, from {names[0]!r} (t = {steps[0]}) '
        f'to {names[-1]!r} (t = {steps[-1]})',
        'current',
    )
    return model


def fuse_denoisers(model: nn.Module) -> nn.Module:
    """Fuse all denoisers into their layers' weights, in place: W' = W A.

    What remains is the stock network: the same modules, parameters, keys and shapes.

    Args:
        model (nn.Module): A network with denoisers.

    Returns:
        nn.Module: The same network.

    Raises:
        ValueError: If there are no denoisers, or a fused weight is not finite. The network is
            then left as it was.
    """
    found = denoisers(model)
    if not found:
        raise ValueError(f'{type(model).__name__} has no denoisers to fuse')
    for denoiser in found.values():
        denoiser.forget()
    # Cached: each W A is computed once, for the check and for the fusion.
    with parametrize.cached(), torch.no_grad():
        for name in found:
            if not torch.isfinite(model.get_submodule(name).weight).all():
                raise ValueError(f'the fused weight of {name!r} is not finite; nothing was fused')
        for name in found:
            detach(model.get_submodule(name), fuse=True)
    return model


def denoisers(model: nn.Module) -> Dict[str, Denoiser]:
    """The denoisers of a network by the name of their layer, from step N to step 1."""
    found = {name: denoiser_of(m) for name, m in model.named_modules() if denoiser_of(m)}
    return dict(sorted(found.items(), key=lambda item: -item[1].step))


def is_fused(state_dict: dict) -> bool:
    """Whether a state dict comes from a fused checkpoint."""
    metadata = getattr(state_dict, '_metadata', None) or {}
    return any(entry.get(FUSED_MARK) for entry in metadata.values())


def denoiser_of(layer: nn.Module) -> Optional[Denoiser]:
    """The denoiser of one layer, or None."""
    if not parametrize.is_parametrized(layer, 'weight'):
        return None
    parametrization = layer.parametrizations.weight[0]
    return parametrization if isinstance(parametrization, Denoiser) else None


@contextmanager
def without_denoisers(model: nn.Module) -> Iterator[Dict[str, Denoiser]]:
    """Make a network stock again while the context is open.

    Its parameters stay the same objects, so optimizers keep working. Yields the denoisers by
    the name of their layer.
    """
    found = denoisers(model)
    for name in found:
        detach(model.get_submodule(name))
    try:
        yield found
    finally:
        for name, denoiser in found.items():
            attach(model.get_submodule(name), denoiser)


@contextmanager
def record_noise_losses(
    found: Dict[str, Denoiser], max_tokens: Optional[int] = None, seed: Optional[int] = None
) -> Iterator[Dict[str, Tensor]]:
    """Collect the noise loss of every layer that is called while the context is open.

    Args:
        found (dict[str, Denoiser]): The result of :func:`denoisers`.
        max_tokens (int, optional): Most tokens on which a layer's loss is estimated at a call.
            Defaults to all.
        seed (int, optional): Seed of a generator for tokens and noise, so that the global one
            does not depend on the sizes of features. Defaults to the global generator.

    Yields:
        dict[str, Tensor]: Filled when the context closes: a scalar for each layer, averaged over
        the layer's calls. The losses have a graph to W_D also inside ``torch.no_grad()``.
    """
    recorded: Dict[str, List[Tensor]] = {}
    generators: Dict[torch.device, torch.Generator] = {}

    def record(name: str, denoiser: Denoiser, x: Tensor) -> None:
        if seed is not None and x.device not in generators:
            generators[x.device] = torch.Generator(x.device).manual_seed(seed)
        with torch.enable_grad():  # label-free training runs the backbone without a graph
            loss = denoiser.noise_loss(x, max_tokens, generators.get(x.device))
        recorded.setdefault(name, []).append(loss)

    losses: Dict[str, Tensor] = {}
    with observe_inputs(found, record):
        yield losses
    with torch.enable_grad():
        for name in found:
            if name in recorded:
                losses[name] = torch.stack(recorded[name]).mean()


def attach(layer: nn.Module, denoiser: Denoiser) -> None:
    """Make a denoiser the parametrization of a layer's weight."""
    parametrize.register_parametrization(layer, 'weight', denoiser, unsafe=True)
    layer.register_forward_pre_hook(_observe_input, with_kwargs=True)
    layer._register_load_state_dict_pre_hook(_load_stock_weight)


def detach(layer: nn.Module, fuse: bool = False) -> None:
    """Make a layer stock again, with the fused weight or with its own."""
    # Where W_D = 0, W - c W 0 could still turn a -0.0 into 0.0: keep the stock bytes.
    fuse = fuse and bool(denoiser_of(layer).weight.any())
    # A deepcopy shares the class that PyTorch made for the parametrized layer, and removing the
    # parametrization deletes ``weight`` from it: without a class of its own, copies would break.
    cls = type(layer)
    own = {k: v for k, v in vars(cls).items() if k not in ('__dict__', '__weakref__')}
    layer.__class__ = type(cls.__name__, cls.__bases__, own)
    parametrize.remove_parametrizations(layer, 'weight', leave_parametrized=fuse)
    if 'bias' in layer._parameters:  # the weight came back behind it; stock layers have it first
        layer._parameters['bias'] = layer._parameters.pop('bias')
    # By identity and not by handle: handles do not survive a deepcopy (EMA).
    for key in [k for k, f in layer._forward_pre_hooks.items() if f is _observe_input]:
        del layer._forward_pre_hooks[key]
        layer._forward_pre_hooks_with_kwargs.pop(key, None)
    hooks = layer._load_state_dict_pre_hooks
    for key in [k for k, f in hooks.items() if getattr(f, 'hook', f) is _load_stock_weight]:
        del hooks[key]


def _observe_input(layer: nn.Module, args: tuple, kwargs: dict) -> None:
    observer = denoiser_of(layer).observer
    if observer is not None:
        observer(args[0] if args else kwargs['input'])


def _load_stock_weight(state_dict: dict, prefix: str, local_metadata: dict, *_: object) -> None:
    if local_metadata.get(FUSED_MARK):
        raise RuntimeError(f'layer {prefix[:-1]!r}: {FUSED_ALREADY}')
    if prefix + 'weight' in state_dict:
        state_dict[prefix + 'parametrizations.weight.original'] = state_dict.pop(prefix + 'weight')
