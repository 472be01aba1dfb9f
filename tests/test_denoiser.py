"""Exactness of the fusion, against denoising written out from the definition."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmdenoiserep import Cascade, Denoiser, NoiseSchedule
from mmdenoiserep.network.parametrization import attach, detach, parametrization_of

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@st.composite
def linear_layers(draw):
    channels, out = draw(st.integers(1, 24)), draw(st.integers(4, 24))
    layer = nn.Linear(channels, out, bias=draw(st.booleans()))
    shape = draw(st.sampled_from([(5,), (2, 7), (2, 3, 4)]))
    return layer, (*shape, channels)


@st.composite
def conv_layers(draw):
    groups = draw(st.sampled_from([1, 2, 3, 4]))
    channels = groups * draw(st.integers(1, 5))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    layer = nn.Conv2d(
        channels,
        groups * draw(st.integers(2, 5)),
        kernel,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=draw(st.tuples(st.integers(0, 3), st.integers(0, 3))),
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(['zeros', 'reflect', 'replicate', 'circular'])),
    )
    batch = draw(st.sampled_from([(), (2,)]))  # unbatched inputs are allowed too
    return layer, (*batch, channels, 9, 8)


def explicit(layer: nn.Module, w_d: torch.Tensor, c1: float, x: torch.Tensor) -> torch.Tensor:
    """The untouched layer behind x - C_1 W_D x, with W_D as one block-diagonal matrix."""
    a = torch.eye(sum(len(block) for block in w_d), dtype=x.dtype)
    a = a - c1 * torch.block_diag(*w_d)
    if isinstance(layer, nn.Linear):
        return layer(x @ a.T)
    return layer(torch.einsum('dc,...chw->...dhw', a, x))


@settings(max_examples=200, deadline=None)
@given(
    case=st.one_of(linear_layers(), conv_layers()),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    step=st.integers(1, 1000),
    seed=st.integers(0, 2**32 - 1),
)
def test_fused_equals_explicit(case, dtype, step, seed):
    layer, shape = case
    torch.manual_seed(seed)
    layer = layer.to(dtype)
    x = torch.randn(shape, dtype=dtype)
    denoiser = Denoiser(layer, step)
    nn.init.normal_(denoiser.weight, std=3.0)
    with torch.no_grad():
        expected = explicit(copy.deepcopy(layer), denoiser.weight, denoiser.factor, x)
        assert torch.allclose(layer(denoiser.denoise(x)), expected, rtol=1e-4, atol=1e-4)
        bias = None if layer.bias is None else layer.bias.clone()
        shapes = {key: value.shape for key, value in layer.state_dict().items()}
        attach(layer, denoiser)
        running = layer(x)
        detach(layer, keep=bool(parametrization_of(layer).weight.any()))
        fused = layer(x)
    assert torch.equal(running, fused)  # what is trained is what is deployed
    error = (fused - expected).norm() / expected.norm()
    assert error <= TOLERANCE[dtype]
    assert {key: value.shape for key, value in layer.state_dict().items()} == shapes
    assert bias is None or torch.equal(layer.bias, bias)


@settings(max_examples=50, deadline=None)
@given(case=st.one_of(linear_layers(), conv_layers()), seed=st.integers(0, 2**32 - 1))
def test_untrained_denoiser_leaves_the_bytes_of_the_layer(case, seed):
    layer, shape = case
    torch.manual_seed(seed)
    with torch.no_grad():
        layer.weight.view(-1)[0] = -0.0
    x = torch.randn(shape)
    expected, weight = layer(x), layer.weight.detach().numpy().tobytes()
    attach(layer, Denoiser(layer, step=3))
    assert torch.equal(layer(x), expected)
    detach(layer, keep=bool(parametrization_of(layer).weight.any()))
    assert layer.weight.detach().numpy().tobytes() == weight


def test_fusion_keeps_the_parameter_and_its_gradient_flag():
    layer = nn.Linear(4, 3)
    weight = layer.weight
    attach(layer, Denoiser(layer, step=1))
    nn.init.normal_(parametrization_of(layer).weight)
    detach(layer, keep=bool(parametrization_of(layer).weight.any()))
    assert layer.weight is weight and layer.weight.requires_grad and type(layer) is nn.Linear


@pytest.mark.parametrize('loss', ['l1', 'l2', 'l1+l2'])
def test_noise_loss_by_hand(loss):
    layer, schedule = nn.Linear(3, 2), NoiseSchedule(num_steps=10)
    denoiser = Denoiser(layer, 4, Cascade(schedule), loss)
    nn.init.normal_(denoiser.weight)
    x = torch.randn(5, 3, requires_grad=True)
    torch.manual_seed(1)
    value = denoiser.noise_loss(x)
    torch.manual_seed(1)
    noise = torch.randn(5, 3)
    error = schedule.q_sample(x, 4, noise) @ denoiser.weight[0].T - noise
    l1, l2 = error.abs().mean(), (error**2).mean()
    expected = {'l1': l1, 'l2': l2, 'l1+l2': l1 + l2}[loss]
    assert torch.allclose(value, expected)
    value.backward()
    assert x.grad is None and denoiser.weight.grad is not None


def test_noise_in_units_of_the_features_by_hand():
    layer = nn.Linear(3, 2)
    denoiser = Denoiser(layer, 40, Cascade(noise_scale='rms'))
    nn.init.normal_(denoiser.weight)
    x = 7 * torch.randn(50, 3)
    torch.manual_seed(1)
    value = denoiser.noise_loss(x)
    torch.manual_seed(1)
    noise = torch.randn(50, 3)
    x_t = denoiser.schedule.q_sample(x / x.square().mean().sqrt(), 40, noise)
    assert torch.allclose(value, (x_t @ denoiser.weight[0].T - noise).abs().mean())
    assert torch.isfinite(denoiser.noise_loss(torch.zeros(5, 3)))


def test_the_step_to_x0_removes_all_of_the_predicted_noise():
    """DDPM equation 15 without its division by sqrt(abar), as METHOD leaves out sqrt(alpha)."""
    layer = nn.Linear(3, 2)
    denoiser = Denoiser(layer, 40, Cascade(estimate='x0'))
    nn.init.normal_(denoiser.weight)
    x = torch.randn(5, 3)
    expected = x - (1 - NoiseSchedule().alpha_bar(40)) ** 0.5 * x @ denoiser.weight[0].T
    assert torch.allclose(denoiser.denoise(x), expected, atol=1e-6)
    attach(layer, denoiser)
    weight = layer.parametrizations.weight.original
    assert torch.allclose(layer(x), expected @ weight.T + layer.bias, atol=1e-6)


def test_grouped_noise_loss_sees_each_group_alone():
    layer = nn.Conv2d(6, 6, 1, groups=3)
    denoiser = Denoiser(layer, step=1)
    nn.init.normal_(denoiser.weight)
    x = torch.zeros(1, 6, 2, 2)
    x[:, 2:4] = 1.0
    predicted = denoiser.predict_noise(x)
    assert predicted[:, 2:4].abs().sum() > 0
    assert predicted[:, [0, 1, 4, 5]].abs().sum() == 0


def test_weight_is_fused_in_float32_under_autocast():
    layer = nn.Linear(8, 8)
    denoiser = Denoiser(layer, step=1)
    nn.init.normal_(denoiser.weight)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        fused = denoiser(layer.weight)
        loss = denoiser.noise_loss(torch.randn(4, 8, dtype=torch.bfloat16))
    assert fused.dtype == torch.float32 and torch.equal(fused, denoiser(layer.weight))
    assert loss.dtype == torch.float32


@pytest.mark.parametrize('option', ['loss', 'estimate', 'noise_scale'])
def test_unknown_options_are_refused(option):
    with pytest.raises(ValueError, match=f"{option} must be one of .* got 'l3'"):
        if option == 'loss':
            Denoiser(nn.Linear(2, 2), 1, loss='l3')
        Cascade(**{option: 'l3'})


def test_denoiser_of_another_step_is_not_loaded():
    layer = nn.Linear(2, 2)
    state = Denoiser(layer, step=5).state_dict()
    with pytest.raises(RuntimeError, match='was trained with'):
        Denoiser(layer, step=6).load_state_dict(state)
    with pytest.raises(RuntimeError, match='was trained with'):
        Denoiser(layer, 5, Cascade(NoiseSchedule(500))).load_state_dict(state)
    with pytest.raises(RuntimeError, match='was trained with'):
        Denoiser(layer, 5, Cascade(estimate='x0')).load_state_dict(state)


@pytest.mark.parametrize(('step', 'num_steps'), [(201, 1000), (200, 1001)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_steps_are_compared_exactly(step, num_steps, dtype):
    """One step beside, weights would be off by thousandths."""
    layer = nn.Linear(2, 2)
    state = Denoiser(layer, step=200).to(dtype).state_dict()
    Denoiser(layer, step=200).load_state_dict(state)
    with pytest.raises(RuntimeError, match='was trained with'):
        Denoiser(layer, step, Cascade(NoiseSchedule(num_steps))).load_state_dict(state)


def test_l2_training_reaches_the_closed_form():
    """W_D* = sqrt(1 - abar) (abar M + (1 - abar) I)^-1 with M = E[x x^T] (METHOD: closed form)."""
    torch.manual_seed(0)
    channels, step = 6, 200
    layer = nn.Linear(channels, 4)
    denoiser = Denoiser(layer, step, loss='l2')
    mixing = torch.randn(channels, channels)
    mean = torch.randn(channels)
    second_moment = (mixing @ mixing.T + torch.outer(mean, mean)).double()
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    for _ in range(1500):
        x = torch.randn(512, channels) @ mixing.T + mean
        optimizer.zero_grad()
        denoiser.noise_loss(x).backward()
        optimizer.step()
        scheduler.step()
    alpha_bar = denoiser.schedule.alpha_bar(step)
    identity = torch.eye(channels, dtype=torch.float64)
    best = (1 - alpha_bar) ** 0.5 * torch.linalg.inv(
        alpha_bar * second_moment + (1 - alpha_bar) * identity
    )
    error = (denoiser.weight[0].detach().double() - best).norm() / best.norm()
    assert error < 0.05
