"""The linear denoiser with the least squared error, from the moments of a layer's input."""

import math

import torch
from torch import Tensor

from ..denoiser import Denoiser


def closed_form(second_moment: Tensor, alpha_bar: float) -> Tensor:
    r"""The linear noise predictor with the least squared error, in closed form.

    :math:`W_D^* = \sqrt{1 - \bar\alpha_t} \, (\bar\alpha_t M + (1 - \bar\alpha_t) I)^{-1}` with
    :math:`M = E[x x^T]`: what training with the loss 'l2' converges to. M is positive
    semidefinite, so the eigenvalues of W_D are in (0, :math:`1 / \sqrt{1 - \bar\alpha_t}`],
    whatever M's rank.

    Args:
        second_moment (Tensor): M, symmetric, (..., C, C), float64.
        alpha_bar (float): :math:`\bar\alpha_t` of the layer's step, in (0, 1).

    Returns:
        Tensor: W_D, (..., C, C), float64.

    Raises:
        ValueError: If M is not positive semidefinite within rounding: features of 1e5 and more.
    """
    identity = torch.eye(
        second_moment.shape[-1], dtype=second_moment.dtype, device=second_moment.device
    )
    noisy = alpha_bar * second_moment + (1 - alpha_bar) * identity
    factor, failed = torch.linalg.cholesky_ex(noisy)
    if failed.any():
        raise ValueError(
            'the second moments of the features are too large beside the noise to be inverted '
            f'(largest {second_moment.abs().max().item():.1e}); take a later step (last_step), or '
            "noise_scale='rms'"
        )
    return math.sqrt(1 - alpha_bar) * torch.cholesky_inverse(factor)


def solve(second_moment: Tensor, denoiser: Denoiser) -> Tensor:
    """W_D of a denoiser from the second moments of its layer's input; shapes as above."""
    if denoiser.cascade.noise_scale == 'rms':
        mean_square = second_moment.diagonal(dim1=-2, dim2=-1).mean()
        second_moment = second_moment / mean_square.clamp_min(torch.finfo(torch.float32).tiny)
    return closed_form(second_moment, denoiser.schedule.alpha_bar(denoiser.step))
