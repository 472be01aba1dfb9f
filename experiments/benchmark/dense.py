"""The dense formulation of the noise loss, to compare with; nothing else uses it."""

import math
from typing import Dict, List

import torch
from torch import Tensor, nn

from mmdenoiserep import Denoiser
from mmdenoiserep.network.tokens import sample_tokens


class DenseFormulation(nn.Module):
    """A C x C noise predictor at every token, conditioned on time by an MLP for each layer.

    DenoiseRep was first published like this. With one fixed step for each layer the time
    embedding is a constant, which is why :class:`Denoiser` has none.

    Args:
        modules (dict[str, Denoiser]): The denoisers whose layers and steps are taken.
        hidden (int): Hidden size of the MLPs. Defaults to 2048.
    """

    def __init__(self, modules: Dict[str, Denoiser], hidden: int = 2048) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        for name, denoiser in modules.items():
            groups, width, _ = denoiser.weight.shape
            channels = groups * width
            self.layers[name.replace('.', '/')] = nn.ModuleDict(
                dict(
                    time=nn.Sequential(
                        nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels)
                    ),
                    predict=nn.Linear(channels, channels, bias=False),
                )
            )
        self._losses: List[Tensor] = []

    def observe(self, name: str, denoiser: Denoiser, x: Tensor) -> None:
        """Record the noise loss of a layer's input."""
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            layer = self.layers[name.replace('.', '/')]
            x = sample_tokens(x.detach(), denoiser.channel_dim).float()
            noise = torch.randn_like(x)
            x_t = denoiser.schedule.q_sample(x, denoiser.step, noise)
            time = layer['time'](_embedding(denoiser.step, x.shape[1]).to(x))
            self._losses.append((layer['predict'](x_t + time) - noise).abs().mean())

    def loss(self) -> Tensor:
        """The sum of the losses recorded since the last call."""
        losses, self._losses = self._losses, []
        return torch.stack(losses).sum()


def _embedding(step: int, channels: int) -> Tensor:
    frequencies = torch.exp(-math.log(10000) * torch.arange(0, channels, 2) / channels)
    angles = step * frequencies
    return torch.cat([angles.sin(), angles.cos()])[:channels]
