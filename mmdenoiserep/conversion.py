"""Insert denoisers into a network, look at them, and fuse them into its weights."""

from contextlib import contextmanager
from typing import Dict, Iterator, Optional, Sequence

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .denoiser import Denoiser
from .diffusion import Cascade
from .network.layers import weight_of
from .network.parametrization import attach, detach, parametrization_of
from .network.targets import select_layers


def insert_denoisers(
    model: nn.Module,
    targets: Optional[Sequence[str]] = None,
    *,
    cascade: Optional[Cascade] = None,
    loss: str = 'l1',
    reach: str = 'channel',
    depthwise: bool = False,
    example: Optional[Tensor] = None,
) -> nn.Module:
    """Give layers of a network a denoiser each, in place.

    The N layers take the steps t = N, N-1, ..., 1 in the order in which data passes them: the
    network is one reverse diffusion from its input to its output. All denoisers start at zero,
    so the network's outputs do not change. Names of modules do not change either, and
    checkpoints of the stock network still load.

    Args:
        model (nn.Module): A network, usually a backbone.
        targets (Sequence[str], optional): Regular expressions, matched in full against module
            names. By default the feed-forward layers where the network has some, else every
            Linear and Conv2d but the stem's first, whose input is an image and no feature; for
            measured noise the stem and what writes to a residual stream, or every layer.
        cascade (Cascade, optional): The steps, their schedule and their noise. Defaults to the
            published one.
        loss (str): See :class:`Denoiser`, as for ``reach``. Defaults to 'l1'.
        depthwise (bool): Whether depthwise convolutions count too, as with measured noise they do:
            with the reach of a channel theirs is one number, no denoiser. Defaults to False.
        example (Tensor, optional): An input that the network accepts, for the forward pass that
            finds the order of the layers. By default images of several sizes are tried.

    Returns:
        nn.Module: The same network.

    Raises:
        ValueError: If the network has denoisers already or cannot be run, a target matches nothing
            or is never called, a name is unknown, or the schedule has too few steps.

    Examples:
        >>> insert_denoisers(model, targets=[r'.*\\.ffn\\..*'])
    """
    if denoisers(model):
        raise ValueError(f'{type(model).__name__} has denoisers already; fuse them first')
    cascade = cascade or Cascade()
    names = select_layers(model, targets, depthwise, example, cascade.noise == 'measured')
    steps = cascade.steps(len(names))
    for step, name in zip(steps, names):
        layer = model.get_submodule(name)
        attach(layer, Denoiser(layer, step, cascade, loss, reach))
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
    inserted = denoisers(model)
    if not inserted:
        raise ValueError(f'{type(model).__name__} has no denoisers to fuse')
    for denoiser in inserted.values():
        denoiser.cache.forget()
    # Cached: each W A is computed once, for the check and for the fusion.
    with parametrize.cached(), torch.no_grad():
        for name in inserted:
            if not torch.isfinite(weight_of(model.get_submodule(name))).all():
                raise ValueError(f'the fused weight of {name!r} is not finite; nothing was fused')
        for name, denoiser in inserted.items():
            # Where W_D = 0, W - c W 0 could still turn a -0.0 into 0.0: keep the stock bytes.
            detach(model.get_submodule(name), keep=bool(denoiser.weight.any()))
    return model


def denoisers(model: nn.Module) -> Dict[str, Denoiser]:
    """The denoisers of a network by the name of their layer, from step N to step 1."""
    found = ((name, parametrization_of(layer)) for name, layer in model.named_modules())
    inserted = {name: module for name, module in found if isinstance(module, Denoiser)}
    return dict(sorted(inserted.items(), key=lambda item: -item[1].step))


@contextmanager
def without_denoisers(model: nn.Module) -> Iterator[Dict[str, Denoiser]]:
    """Make a network stock again while the context is open.

    Its parameters stay the same objects, so optimizers keep working. Yields the denoisers by
    the name of their layer.
    """
    inserted = denoisers(model)
    for name in inserted:
        detach(model.get_submodule(name))
    try:
        yield inserted
    finally:
        for name, denoiser in inserted.items():
            attach(model.get_submodule(name), denoiser)
