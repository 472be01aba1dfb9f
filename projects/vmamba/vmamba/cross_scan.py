"""The four-way scan of an image: along rows and along columns, from both ends."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .selective_scan import selective_scan

#: Along rows, along columns, then both from the last pixel to the first.
DIRECTIONS = 4


def cross_scan(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
) -> Tensor:
    """Scan an image in four directions, each with its own parameters, and add the results up.

    The directions run one after the other, which takes a quarter of the memory, and no reversed
    copy is made.

    Args:
        x (Tensor): (B, H, W, D), best contiguous.
        x_proj_weight (Tensor): From a pixel to its step size of rank R, B and C: (4, R + 2N, D).
        dt_projs_weight (Tensor): From the step size of rank R to that of a channel: (4, D, R).
        dt_projs_bias (Tensor): (4, D).
        A_logs (Tensor): Logarithms of -A, (4D, N).
        Ds (Tensor): (4D,).

    Returns:
        Tensor: (B, H, W, D) in float32, or in float64 where x is.
    """
    batch, height, width, channels = x.shape
    rank, state = dt_projs_weight.shape[-1], A_logs.shape[-1]
    # Rounded to half precision, the decay over many steps would be another.
    A = -A_logs.to(torch.promote_types(A_logs.dtype, torch.float32)).exp()
    A, Ds = A.view(DIRECTIONS, channels, state), Ds.view(DIRECTIONS, channels)

    def scan(u: Tensor, k: int) -> Tensor:
        dt, B, C = F.linear(u, x_proj_weight[k]).split([rank, state, state], dim=-1)
        delta = F.linear(dt, dt_projs_weight[k])
        return selective_scan(u, delta, A[k], B, C, Ds[k], dt_projs_bias[k], reverse=k >= 2)

    rows = x.flatten(1, 2)
    y_rows = (scan(rows, 0) + scan(rows, 2)).view(batch, height, width, channels)
    columns = x.transpose(1, 2).flatten(1, 2)
    y_columns = (scan(columns, 1) + scan(columns, 3)).view(batch, width, height, channels)
    return y_rows + y_columns.transpose(1, 2)
