"""Loss_p of a network, recorded while it runs."""

from contextlib import contextmanager
from typing import Dict, Iterator, List, Mapping, Optional

import torch
from torch import Tensor

from ..network.observation import NoisePredictor, observe_inputs


@contextmanager
def record_noise_losses(
    modules: Mapping[str, NoisePredictor],
    max_tokens: Optional[int] = None,
    seed: Optional[int] = None,
) -> Iterator[Dict[str, Tensor]]:
    """Collect the noise loss of every layer that is called while the context is open.

    Args:
        modules (dict[str, NoisePredictor]): The result of :func:`mmdenoiserep.denoisers`.
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

    def record(name: str, denoiser: NoisePredictor, x: Tensor) -> None:
        if seed is not None and x.device not in generators:
            generators[x.device] = torch.Generator(x.device).manual_seed(seed)
        with torch.enable_grad():  # label-free training runs the backbone without a graph
            loss = denoiser.noise_loss(x, max_tokens, generators.get(x.device))
        recorded.setdefault(name, []).append(loss)

    losses: Dict[str, Tensor] = {}
    with observe_inputs(modules, record):
        yield losses
    with torch.enable_grad():
        for name in modules:
            if name in recorded:
                losses[name] = torch.stack(recorded[name]).mean()
