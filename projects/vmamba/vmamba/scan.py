"""Parallel scan of a linear recurrence, in plain PyTorch.

The sequence is cut into chunks of :data:`CHUNK` steps. What a chunk does to the state that enters
it is one product and one sum; over these the scan calls itself, and a second pass over each chunk
starts from the right state. All chunks advance together, so a sequence of L steps takes
O(CHUNK log L) operations on large tensors instead of L on small ones, and no number but products
of the given coefficients is ever formed.
"""

from typing import Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

CHUNK = 16
#: Sequences up to this length are scanned step by step.
SHORT = 32


def linear_scan(a: Tensor, b: Tensor, reverse: bool = False) -> Tensor:
    r"""All states of :math:`h_t = a_t h_{t-1} + b_t`, from :math:`h_{-1} = 0`.

    Args:
        a (Tensor): Coefficients, (..., L, M): L steps of M independent channels, which are best
            contiguous. The first step's is not used.
        b (Tensor): Inputs, of the same shape.
        reverse (bool): Whether to start at the last step: :math:`h_t = a_t h_{t+1} + b_t`.
            Defaults to False.

    Returns:
        Tensor: (..., L, M) in float32, or in float64 where an input is. Differentiable once.

    Raises:
        ValueError: If the shapes differ or there is no step.
    """
    if a.shape != b.shape or a.ndim < 2 or not a.shape[-2]:
        raise ValueError(f'a and b must both be (..., L, M), got {(*a.shape,)} and {(*b.shape,)}')
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return _LinearScan.apply(a.to(dtype), b.to(dtype), reverse)


class _LinearScan(Function):
    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, reverse: bool) -> Tensor:
        h = scan_links(links(a, reverse), b, reverse, torch.empty_like(b))
        ctx.save_for_backward(a, h)
        ctx.reverse = reverse
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_h: Tensor) -> tuple:
        a, h = ctx.saved_tensors
        # The adjoint of a scan is the scan over the same links from the other end.
        out = torch.empty_like(h)
        grad_b = scan_links(links(a, ctx.reverse), grad_h, not ctx.reverse, out)
        grad_a = grad_b.clone() if ctx.needs_input_grad[0] else None
        if grad_a is not None:
            times_previous_(grad_a, h, ctx.reverse)
        return grad_a, grad_b, None


def links(a: Tensor, reverse: bool) -> Tensor:
    """The L - 1 coefficients that link neighbouring steps, as a view."""
    return a[..., :-1, :] if reverse else a[..., 1:, :]


def times_previous_(x: Tensor, h: Tensor, reverse: bool) -> Tensor:
    """Multiply x by the state before each step, in place; before the first, it is zero."""
    if reverse:
        x[..., :-1, :].mul_(h[..., 1:, :])
        x[..., -1, :] = 0
    else:
        x[..., 1:, :].mul_(h[..., :-1, :])
        x[..., 0, :] = 0
    return x


def scan_links(link: Tensor, x: Tensor, reverse: bool, out: Tensor) -> Tensor:
    """All states of ``out[t + 1] = link[t] * out[t] + x[t + 1]``, from ``out[0] = x[0]``.

    Args:
        link (Tensor): (..., L - 1, M).
        x (Tensor): (..., L, M), of the same dtype.
        reverse (bool): Whether ``out[t] = link[t] * out[t + 1] + x[t]``, from the last step.
        out (Tensor): Where they are written; may be x.

    Returns:
        Tensor: out.
    """
    length, first = x.shape[-2], -1 if reverse else 0
    out[..., first, :] = x[..., first, :]
    if length <= SHORT:
        _step_through(link, x, reverse, out)
        return out

    # A chunk goes with the links inside it and the one that leaves it, so one step stays over.
    chunks = (length - 1) // CHUNK
    whole = chunks * CHUNK
    link_whole, link_rest = _cut(link, whole, reverse)
    x_whole, x_rest = _cut(x, whole, reverse)
    out_whole, out_rest = _cut(out, whole, reverse)
    link_whole = link_whole.unflatten(-2, (chunks, CHUNK))
    steps = _unbind(link_whole, reverse)  # (..., chunks, M) each
    xs = _unbind(x_whole.unflatten(-2, (chunks, CHUNK)), reverse)
    outs = _unbind(out_whole.unflatten(-2, (chunks, CHUNK)), reverse)
    inside = link_whole[..., 1:, :] if reverse else link_whole[..., :-1, :]
    leaving, entered = (_but_first, _but_last) if reverse else (_but_last, _but_first)

    # What each chunk comes to from a state of zero, and what it makes of the state before it.
    end = torch.addcmul(xs[1], steps[0], xs[0])
    for step, x_next in zip(steps[1:-1], xs[2:]):
        torch.addcmul(x_next, step, end, out=end)
    jump = entered(inside.transpose(-3, -2)).prod(-3).mul_(leaving(steps[-1]))
    scan_links(jump, end, reverse, end)

    torch.addcmul(entered(xs[0]), leaving(steps[-1]), leaving(end), out=entered(outs[0]))
    for step, last, x_next, out_next in zip(steps, outs, xs[1:-1], outs[1:-1]):
        torch.addcmul(x_next, step, last, out=out_next)
    outs[-1].copy_(end)
    _step_through(link_rest, x_rest, reverse, out_rest)
    return out


def _step_through(link: Tensor, x: Tensor, reverse: bool, out: Tensor) -> None:
    """The same from a first state that ``out`` has already, step by step."""
    steps, xs, outs = (_unbind(t, reverse) for t in (link, x, out))
    for step, last, x_next, out_next in zip(steps, outs, xs[1:], outs[1:]):
        torch.addcmul(x_next, step, last, out=out_next)


def _cut(x: Tensor, size: int, reverse: bool) -> Tuple[Tensor, Tensor]:
    """The first ``size`` steps, and from the last of these on; the last steps in reverse."""
    rest = x.shape[-2] - size
    if reverse:
        return x[..., rest:, :], x[..., : rest + 1, :]
    return x[..., :size, :], x[..., size - 1 :, :]


def _unbind(x: Tensor, reverse: bool) -> Tuple[Tensor, ...]:
    """The steps, in the order in which they are taken."""
    return x.unbind(-2)[::-1] if reverse else x.unbind(-2)


def _but_last(x: Tensor) -> Tensor:
    return x[..., :-1, :]


def _but_first(x: Tensor) -> Tensor:
    return x[..., 1:, :]
