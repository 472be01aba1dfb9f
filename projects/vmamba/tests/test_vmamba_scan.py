"""The scans against a loop over the steps in float64, and their gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from projects.vmamba.vmamba import linear_scan, selective_scan

LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5}
#: Gradients of A and the bias are sums over all steps, whose terms may cancel.
GRADIENT_LIMITS = {torch.float64: 1e-12, torch.float32: 1e-3}
#: Of delta, before softplus: step sizes of about 1e-13, 1e-2, 0.7, 100, and all of these.
DELTAS = {
    'tiny': (-30.0, 1.0),
    'usual': (-4.0, 1.0),
    'wide': (0.0, 3.0),
    'large': (100.0, 10.0),
    'mixed': (0.0, 60.0),
}
lengths = st.integers(1, 300)
seeds = st.integers(0, 2**31)
many = settings(max_examples=150, deadline=None)


def steps(length: int, reverse: bool):
    return reversed(range(length)) if reverse else range(length)


def linear_loop(a: Tensor, b: Tensor, reverse: bool) -> Tensor:
    a, b = a.double(), b.double()
    h, found = torch.zeros_like(b[..., 0, :]), {}
    for t in steps(a.shape[-2], reverse):
        h = found[t] = a[..., t, :] * h + b[..., t, :]
    return torch.stack([found[t] for t in sorted(found)], -2)


def selective_loop(u, delta, A, B, C, D, bias, reverse: bool) -> Tensor:
    """The definition of Mamba, step by step: one matrix of (channels, N) is the state."""
    u, delta, A, B, C, D, bias = (x.double() for x in (u, delta, A, B, C, D, bias))
    h, found = torch.zeros(len(u), *A.shape, dtype=torch.float64), {}
    for t in steps(u.shape[1], reverse):
        size = torch.logaddexp(delta[:, t] + bias, torch.zeros(()).double())
        h = (size[..., None] * A).exp() * h + (size * u[:, t])[..., None] * B[:, t, None, :]
        found[t] = (h * C[:, t, None, :]).sum(-1) + D * u[:, t]
    return torch.stack([found[t] for t in sorted(found)], 1)


def selective_inputs(length, state, kind='wide', channels=3, batch=2, dtype=torch.float64):
    mean, spread = DELTAS[kind]
    return [
        torch.randn(batch, length, channels).to(dtype),
        (mean + spread * torch.randn(batch, length, channels)).to(dtype),
        -(torch.rand(channels, state) * 3).to(dtype),
        torch.randn(batch, length, state).to(dtype),
        torch.randn(batch, length, state).to(dtype),
        torch.randn(channels).to(dtype),
        torch.randn(channels).to(dtype),
    ]


def assert_close(found: Tensor, expected: Tensor, limit: float) -> None:
    assert found.shape == expected.shape
    # Below 1e-35 float32 runs out of digits.
    assert (found - expected).abs().max() <= limit * expected.abs().max() + 1e-35


@pytest.mark.parametrize('dtype', LIMITS, ids=str)
@many
@given(
    length=lengths,
    width=st.integers(1, 5),
    lead=st.sampled_from([(), (1,), (3,), (2, 2)]),
    low=st.sampled_from([0.0, 0.5, 0.99]),
    reverse=st.booleans(),
    seed=seeds,
)
def test_linear_scan(dtype, length, width, lead, low, reverse, seed):
    torch.manual_seed(seed)
    a = (low + (1 - low) * torch.rand(*lead, length, width)).to(dtype)
    b = torch.randn(*lead, length, width).to(dtype)
    before = a.clone(), b.clone()
    h = linear_scan(a, b, reverse)
    assert h.dtype == dtype
    assert_close(h, linear_loop(a, b, reverse), LIMITS[dtype])
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


@many
@given(length=lengths, reverse=st.booleans(), seed=seeds)
def test_linear_scan_without_and_with_full_memory(length, reverse, seed):
    torch.manual_seed(seed)
    b = torch.randint(-9, 10, (2, length, 3)).double()
    assert torch.equal(linear_scan(torch.zeros_like(b), b, reverse), b)
    sums = b.flip(1).cumsum(1).flip(1) if reverse else b.cumsum(1)
    assert torch.equal(linear_scan(torch.ones_like(b), b, reverse), sums)


@pytest.mark.parametrize('dtype', LIMITS, ids=str)
@many
@given(
    length=lengths,
    state=st.integers(1, 16),
    kind=st.sampled_from(sorted(DELTAS)),
    reverse=st.booleans(),
    seed=seeds,
)
def test_selective_scan(dtype, length, state, kind, reverse, seed):
    torch.manual_seed(seed)
    inputs = selective_inputs(length, state, kind, dtype=dtype)
    y = selective_scan(*inputs, reverse)
    assert y.dtype == dtype
    assert_close(y, selective_loop(*inputs, reverse), LIMITS[dtype])


@settings(max_examples=50, deadline=None)
@given(
    length=lengths,
    state=st.integers(1, 16),
    kind=st.sampled_from(sorted(DELTAS)),
    reverse=st.booleans(),
    seed=seeds,
)
def test_gradients_of_the_selective_scan(length, state, kind, reverse, seed):
    torch.manual_seed(seed)
    inputs = [x.requires_grad_() for x in selective_inputs(length, state, kind)]
    y = selective_loop(*inputs, reverse)
    grad_y = torch.randn_like(y)
    expected = torch.autograd.grad(y, inputs, grad_y)
    for dtype, limit in GRADIENT_LIMITS.items():
        own = [x.detach().to(dtype).requires_grad_() for x in inputs]
        found = torch.autograd.grad(selective_scan(*own, reverse), own, grad_y.to(dtype))
        for grad, reference in zip(found, expected):
            assert grad.dtype == dtype
            assert_close(grad, reference, limit)


@pytest.mark.parametrize('reverse', [False, True])
@pytest.mark.parametrize('length', [1, 2, 40])
def test_gradcheck(length, reverse):
    a, b = torch.rand(2, length, 2).double(), torch.randn(2, length, 2).double()
    linear = [x.requires_grad_() for x in (a, b)]
    assert torch.autograd.gradcheck(lambda *x: linear_scan(*x, reverse), linear)
    inputs = [x.requires_grad_() for x in selective_inputs(length, 2, channels=2, batch=1)]
    assert torch.autograd.gradcheck(lambda *x: selective_scan(*x, reverse), inputs)


def test_frozen_parameters_change_no_other_gradient():
    inputs = [x.requires_grad_() for x in selective_inputs(50, 2)]
    expected = torch.autograd.grad(selective_scan(*inputs).sum(), inputs)
    for i in (2, 5, 6):  # A, D and the bias, which a network does not compute from its input
        inputs[i].requires_grad_(False)
    selective_scan(*inputs).sum().backward()
    for x, reference in zip(inputs, expected):
        assert torch.equal(x.grad, reference) if x.requires_grad else x.grad is None


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_inputs_are_scanned_in_float32(dtype):
    inputs = selective_inputs(70, 2, dtype=torch.float32)
    for i in (0, 1, 3, 4):
        inputs[i] = inputs[i].to(dtype).requires_grad_()
    wide = [x.detach().float().requires_grad_(x.requires_grad) for x in inputs]
    y, expected = selective_scan(*inputs), selective_scan(*wide)
    assert y.dtype == torch.float32 and torch.equal(y, expected)
    y.sum().backward()
    expected.sum().backward()
    for x, reference in zip(inputs, wide):
        if x.requires_grad:
            assert x.grad.dtype == dtype and torch.equal(x.grad, reference.grad.to(dtype))
    assert linear_scan(inputs[0], inputs[1]).dtype == torch.float32


def test_autocast_changes_nothing():
    inputs = [x.requires_grad_() for x in selective_inputs(70, 2, dtype=torch.float32)]
    expected = selective_scan(*inputs)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = selective_scan(*inputs)
        grads = torch.autograd.grad(found.sum(), inputs)
    assert torch.equal(found, expected)
    for grad, reference in zip(grads, torch.autograd.grad(expected.sum(), inputs)):
        assert torch.equal(grad, reference)


def test_layouts_do_not_matter():
    inputs = selective_inputs(70, 2)
    strided = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in inputs]
    assert not strided[0].is_contiguous()
    assert_close(selective_scan(*strided), selective_scan(*inputs), 1e-14)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match='must both be'):
        linear_scan(torch.zeros(1, 4, 2), torch.zeros(1, 5, 2))
    with pytest.raises(ValueError, match='must both be'):
        linear_scan(torch.zeros(1, 0, 2), torch.zeros(1, 0, 2))
    for i, name in enumerate(('u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias')):
        inputs = selective_inputs(5, 2)
        inputs[i] = inputs[i].repeat(2, *[1] * (inputs[i].ndim - 1))
        with pytest.raises(ValueError, match='must be' if name in 'uA' else f'^{name} must be'):
            selective_scan(*inputs)
    with pytest.raises(ValueError, match=r'^u must be'):
        selective_scan(*selective_inputs(0, 2))
