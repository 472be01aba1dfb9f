"""The selective scan of Mamba (S6), with a backward pass that keeps nothing but the inputs."""

from typing import Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .scan import links, scan_links, times_previous_


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    reverse: bool = False,
) -> Tensor:
    r"""Scan a sequence with a state space whose parameters depend on the input.

    With :math:`\Delta_t = \mathrm{softplus}(\delta_t + \mathrm{bias})`, for each channel

    .. math::
        h_t = e^{\Delta_t A} \odot h_{t-1} + \Delta_t u_t B_t, \quad h_{-1} = 0, \qquad
        y_t = \langle C_t, h_t \rangle + D u_t

    (Gu and Dao, `Mamba <https://arxiv.org/abs/2312.00752>`_, without its gate). Computed in
    float32, or in float64 where u is, whatever the dtypes of the inputs and under autocast too.
    The backward pass computes the states again instead of keeping them.

    Args:
        u (Tensor): Input, (batch, L, channels).
        delta (Tensor): Step sizes before bias and softplus, (batch, L, channels).
        A (Tensor): Negative for a state that decays, (channels, N).
        B (Tensor): (batch, L, N), shared by the channels.
        C (Tensor): (batch, L, N), shared by the channels.
        D (Tensor): Skip connection, (channels,).
        delta_bias (Tensor): (channels,).
        reverse (bool): Whether to scan from the last step to the first. Defaults to False.

    Returns:
        Tensor: y, (batch, L, channels), float32 or float64. Differentiable once.

    Raises:
        ValueError: If a shape does not fit that of u and A.
    """
    if u.ndim != 3 or A.ndim != 2:
        raise ValueError(
            f'u must be (batch, L, channels) and A (channels, N), got {(*u.shape,)}, {(*A.shape,)}'
        )
    (batch, length, channels), state = u.shape, A.shape[1]
    expected = dict(
        u=(batch, max(length, 1), channels),
        delta=(batch, length, channels),
        A=(channels, state),
        B=(batch, length, state),
        C=(batch, length, state),
        D=(channels,),
        delta_bias=(channels,),
    )
    given = dict(u=u, delta=delta, A=A, B=B, C=C, D=D, delta_bias=delta_bias)
    for name, shape in expected.items():
        if given[name].shape != shape:
            raise ValueError(f'{name} must be {shape}, got {(*given[name].shape,)}')
    return _SelectiveScan.apply(u, delta, A, B, C, D, delta_bias, reverse)


class _SelectiveScan(Function):
    # Nothing but elementwise operations and sums of at least float32: autocast leaves these alone.

    @staticmethod
    def forward(ctx, *args) -> Tensor:
        *tensors, reverse = args
        ctx.save_for_backward(*tensors)
        ctx.reverse = reverse
        u, delta, A, B, C, D, bias = _promote(tensors)
        step = _softplus(delta + bias)
        drive = step * u
        y = u * D
        for n in range(A.shape[1]):
            _, h = _states(step, drive, A[:, n], B[..., n, None], reverse)
            y.addcmul_(h, C[..., n, None])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor) -> tuple:
        saved = ctx.saved_tensors
        u, delta, A, B, C, D, bias = _promote(saved)
        needs = ctx.needs_input_grad
        step = _softplus(delta + bias)
        drive = step * u
        grad_step, grad_drive = torch.zeros_like(step), torch.zeros_like(step)
        grad_A, grad_B, grad_C = torch.zeros_like(A), torch.zeros_like(B), torch.zeros_like(C)
        for n in range(A.shape[1]):
            decay, h = _states(step, drive, A[:, n], B[..., n, None], ctx.reverse)
            grad_C[..., n] = (grad_y * h).sum(-1)
            # Of the state, from all later steps.
            grad = grad_y * C[..., n, None]
            scan_links(links(decay, ctx.reverse), grad, not ctx.reverse, out=grad)
            grad_B[..., n] = (grad * drive).sum(-1)
            grad_drive.addcmul_(grad, B[..., n, None])
            grad = times_previous_(grad.mul_(decay), h, ctx.reverse)  # of step * A
            grad_step.addcmul_(grad, A[:, n])
            if needs[2]:
                grad_A[:, n] = (grad * step).sum((0, 1))
        grad_u = (grad_y * D).addcmul_(grad_drive, step)
        grad_step.addcmul_(grad_drive, u)
        grad_delta = grad_step.mul_(torch.expm1(-step).neg_())  # softplus' = 1 - exp(-softplus)
        grads = (
            grad_u,
            grad_delta,
            grad_A if needs[2] else None,
            grad_B,
            grad_C,
            (grad_y * u).sum((0, 1)) if needs[5] else None,
            grad_delta.sum((0, 1)) if needs[6] else None,
        )
        # The inputs' dtypes: the scan's own may be wider.
        return (*(g if g is None else g.to(x.dtype) for g, x in zip(grads, saved)), None)


def _softplus(x: Tensor) -> Tensor:
    # PyTorch's own threshold of 20 would be seen in float64.
    return F.softplus(x, threshold=40)


def _promote(tensors: Tuple[Tensor, ...]) -> Tuple[Tensor, ...]:
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return tuple(x.to(dtype) for x in tensors)


def _states(
    step: Tensor, drive: Tensor, A: Tensor, B: Tensor, reverse: bool
) -> Tuple[Tensor, Tensor]:
    """Decay and state at every step, of one of the N dimensions of the state."""
    decay = (step * A).exp_()
    h = drive * B
    return decay, scan_links(links(decay, reverse), h, reverse, out=h)
