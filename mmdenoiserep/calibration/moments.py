"""Second moments of the inputs of denoised layers."""

from typing import Dict, Optional

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from ..denoiser import Denoiser
from ..network.tokens import sample_tokens

#: Tokens that are multiplied at a time, in float64.
BLOCK = 1024


class SecondMoments:
    """E[x xᵀ] of the inputs of denoised layers, summed up over any number of images.

    Memory is one (G, C/G, C/G) matrix of float64 for each layer, however many images are seen.

    Args:
        modules (dict[str, Denoiser]): The result of :func:`mmdenoiserep.denoisers`.
        max_tokens (int, optional): Most tokens to take from a layer's input at a call, without
            bias. Defaults to all.
        seed (int): Seed of the generator that draws them. Defaults to 0.
    """

    def __init__(
        self, modules: Dict[str, Denoiser], max_tokens: Optional[int] = None, seed: int = 0
    ) -> None:
        self.max_tokens = max_tokens
        self.seed = seed
        self._generators: Dict[torch.device, torch.Generator] = {}
        self._sums = {
            name: torch.zeros_like(denoiser.weight, dtype=torch.float64, requires_grad=False)
            for name, denoiser in modules.items()
        }
        self._counts = {name: 0 for name in modules}

    @torch.no_grad()
    def update(self, name: str, denoiser: Denoiser, x: Tensor) -> None:
        """Add the tokens of a layer's input."""
        if x.device not in self._generators:
            self._generators[x.device] = torch.Generator(x.device).manual_seed(self.seed)
        tokens = sample_tokens(x, denoiser.channel_dim, self.max_tokens, self._generators[x.device])
        groups, width, _ = denoiser.weight.shape
        with torch.autocast(x.device.type, enabled=False):
            # In float64: M's rounding error has to stay below 1 - ᾱ_t, which is 1e-4 at t = 1.
            for block in tokens.split(BLOCK):
                grouped = block.double().reshape(-1, groups, width).transpose(0, 1)
                self._sums[name] += grouped.transpose(1, 2) @ grouped
        self._counts[name] += len(tokens)

    def merge(self) -> None:
        """Add up what the processes of a distributed run have seen."""
        for name, total in self._sums.items():
            count = total.new_tensor(float(self._counts[name]))
            all_reduce(total)
            all_reduce(count)
            self._counts[name] = int(count)

    def of(self, name: str) -> Tensor:
        """E[x xᵀ] of a layer, (G, C/G, C/G), float64.

        Raises:
            ValueError: If the layer has seen nothing, or NaN or infinity.
        """
        if not self._counts[name]:
            raise ValueError(f'layer {name!r} was not called: it has no features to calibrate on')
        moment = self._sums[name] / self._counts[name]
        if not torch.isfinite(moment).all():
            raise ValueError(f'the features of layer {name!r} hold NaN or infinity')
        return moment
