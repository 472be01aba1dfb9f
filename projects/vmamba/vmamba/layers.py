"""The parts of VMamba, on images with the channels last: (B, H, W, C)."""

import math

import torch
from torch import Tensor, nn

from .cross_scan import DIRECTIONS, cross_scan


class SS2D(nn.Module):
    """2D selective scan, without a gate: projection, depthwise convolution, four scans.

    Args:
        dim (int): Channels of input and output.
        ratio (int): Channels inside are ``dim * ratio``.
        d_state (int): Dimensions N of a channel's state.
    """

    def __init__(self, dim: int, ratio: int, d_state: int) -> None:
        super().__init__()
        inner, rank = dim * ratio, math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.act = nn.SiLU()
        # Of all directions, as in the published files; A_logs and Ds have the direction outermost.
        self.x_proj_weight = nn.Parameter(torch.empty(DIRECTIONS, rank + 2 * d_state, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(DIRECTIONS, inner, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(DIRECTIONS, inner))
        self.A_logs = nn.Parameter(torch.empty(DIRECTIONS * inner, d_state))
        self.Ds = nn.Parameter(torch.empty(DIRECTIONS * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.reset_scan()

    @torch.no_grad()
    def reset_scan(self) -> None:
        """Initialize the scan's parameters: step sizes between 1e-3 and 0.1, A = -1, ..., -N."""
        bound = self.x_proj_weight.shape[-1] ** -0.5
        self.x_proj_weight.uniform_(-bound, bound)
        bound = self.dt_projs_weight.shape[-1] ** -0.5
        self.dt_projs_weight.uniform_(-bound, bound)
        step = self.dt_projs_bias.uniform_(math.log(1e-3), math.log(0.1)).exp().clamp_min(1e-4)
        self.dt_projs_bias.copy_(step + torch.log(-torch.expm1(-step)))  # inverse of softplus
        numbers = torch.arange(1, self.A_logs.shape[1] + 1, device=self.A_logs.device)
        self.A_logs.copy_(numbers.log().expand_as(self.A_logs))
        self.Ds.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same; the scan itself in float32 at least."""
        x = self.in_proj(x)
        x = self.act(self.conv2d(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        y = cross_scan(
            x,
            self.x_proj_weight,
            self.dt_projs_weight,
            self.dt_projs_bias,
            self.A_logs,
            self.Ds,
        )
        # The norm in its own precision: float32 under autocast, half in a model that is half.
        y = self.out_norm(y.to(self.out_norm.weight.dtype))
        return self.out_proj(y.to(x.dtype))


class Mlp(nn.Module):
    """The feed-forward part of a block: two Linear layers with a GELU between them."""

    def __init__(self, dim: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, dim * ratio)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(dim * ratio, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to the same."""
        return self.fc2(self.act(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch of random samples, in training only."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to the same, its expectation unchanged."""
        if not self.training or not self.rate:
            return x
        keep = 1 - self.rate
        kept = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * kept.div_(keep)


class VSSBlock(nn.Module):
    """Visual state space block: an SS2D and a feed-forward branch, both pre-normalized."""

    def __init__(self, dim: int, ssm_ratio: int, d_state: int, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = SS2D(dim, ssm_ratio, d_state)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same."""
        x = x + self.drop_path(self.op(self.norm(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Permute(nn.Module):
    """Reorder dimensions, as a view."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """Any tensor with as many dimensions."""
        return x.permute(self.dims)


def channels_first() -> Permute:
    """(B, H, W, C) to (B, C, H, W)."""
    return Permute(0, 3, 1, 2)


def channels_last() -> Permute:
    """(B, C, H, W) to (B, H, W, C)."""
    return Permute(0, 2, 3, 1)


def patch_embed(in_channels: int, dim: int) -> nn.Sequential:
    """Two convolutions of stride 2: (B, C, H, W) to (B, ceil(H/4), ceil(W/4), dim)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, dim // 2, 3, stride=2, padding=1),
        channels_last(),
        nn.LayerNorm(dim // 2),
        channels_first(),
        nn.GELU(),
        nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
        channels_last(),
        nn.LayerNorm(dim),
    )


def downsample(dim: int) -> nn.Sequential:
    """A convolution of stride 2: (B, H, W, dim) to (B, ceil(H/2), ceil(W/2), 2 dim)."""
    return nn.Sequential(
        channels_first(),
        nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1),
        channels_last(),
        nn.LayerNorm(2 * dim),
    )
