"""Measured noise: pairs, the pass that solves layer after layer, and what it is judged by."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from torch import nn
from torch.nn import functional as F
from toy import ToyBackbone

from mmdenoiserep import Cascade, Denoiser, denoisers, fuse_denoisers, insert_denoisers
from mmdenoiserep.apis.verify import explicit_denoising, explicit_forward
from mmdenoiserep.calibration import Pair, PairPass, calibrate, calibrate_measured
from mmdenoiserep.calibration.judge import OutputError, output_error, stock_outputs
from mmdenoiserep.calibration.lockstep import Job, run_in_lockstep
from mmdenoiserep.calibration.memory import images_at_once
from mmdenoiserep.calibration.pair_moments import PairMoments
from mmdenoiserep.calibration.search import STRENGTHS, Plan, Search
from mmdenoiserep.network.bypass import stock_weights
from mmdenoiserep.network.parametrization import attach
from mmdenoiserep.network.streams import look_behind
from mmdenoiserep.network.tokens import output_size, take_patches

MEASURED = Cascade(noise='measured')
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 2, 4]))
    channels = groups * draw(st.integers(1, 3))
    depthwise = draw(st.booleans())
    shape = (
        channels,
        channels if depthwise else groups * draw(st.integers(1, 4)),
        draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
    )
    options = dict(
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 2))),
        dilation=draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        groups=channels if depthwise else groups,
        bias=draw(st.booleans()),
    )
    mode = draw(st.sampled_from(['zeros', 'reflect', 'replicate', 'circular', 'same']))
    if mode == 'same':  # mmcv's, which EfficientNet is made of
        return Conv2dAdaptivePadding(*shape, **options)
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    return nn.Conv2d(*shape, padding=padding, padding_mode=mode, **options)


@settings(max_examples=150, deadline=None)
@given(
    layer=convolutions(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**32 - 1),
)
@torch.no_grad()
def test_fused_equals_unfolding_denoising_and_the_flattened_kernel(layer, dtype, seed):
    torch.manual_seed(seed)
    layer = layer.to(dtype)
    x = torch.randn(2, layer.in_channels, 9, 8, dtype=dtype)
    denoiser = Denoiser(layer, 1, MEASURED, reach='kernel')
    nn.init.normal_(denoiser.weight)
    expected = explicit_forward(copy.deepcopy(layer), denoiser, x)
    attach(layer, denoiser)
    error = (layer(x) - expected).norm() / expected.norm()
    assert error <= TOLERANCE[dtype]


@settings(max_examples=100, deadline=None)
@given(layer=convolutions(), seed=st.integers(0, 2**32 - 1))
@torch.no_grad()
def test_patches_are_what_the_convolution_sees(layer, seed):
    torch.manual_seed(seed)
    x = torch.randn(2, layer.in_channels, 9, 8)
    size = output_size(x, layer)
    patches = take_patches(x, layer)
    assert len(patches) == size.numel() and layer(x).shape == (2, layer.out_channels, *size[1:])
    groups = layer.groups
    kernel = layer.weight.reshape(groups, layer.out_channels // groups, -1)
    y = torch.einsum('kgc,goc->kgo', patches.reshape(len(patches), groups, -1), kernel)
    y = y.reshape(*size, -1).permute(0, 3, 1, 2)
    y = y if layer.bias is None else y + layer.bias[:, None, None]
    assert torch.allclose(y, layer(x), atol=1e-5)
    index = torch.randint(size.numel(), (5,))
    assert torch.equal(take_patches(x, layer, index), patches[index])


def test_the_reach_of_a_kernel_needs_measured_noise():
    with pytest.raises(ValueError, match="goes with noise='measured'"):
        Denoiser(nn.Conv2d(2, 2, 3), 1, reach='kernel')


class Residual(nn.Module):
    """A stem, a residual branch with batch norm, a layer scale and a chain."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.norm = nn.LayerNorm(6)
        self.fc = nn.Linear(6, 6)
        self.gamma = nn.Parameter(torch.linspace(0.5, 2, 6))
        self.last = nn.Linear(6, 4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = self.relu(self.bn(self.conv2(self.relu(self.conv1(x)))) + x)
        x = x.flatten(2).transpose(1, 2)
        x = x + self.gamma * self.fc(self.norm(x))
        return self.last(x)


@pytest.fixture
def residual():
    torch.manual_seed(0)
    model = Residual().eval()
    nn.init.uniform_(model.bn.weight, 0.5, 2)
    nn.init.uniform_(model.bn.running_var, 0.5, 2)
    nn.init.normal_(model.bn.bias)
    return model


def test_writers_to_a_stream_are_found_by_looking(residual):
    names = ['stem', 'conv1', 'conv2', 'fc', 'last']
    streams = look_behind(residual, names, torch.zeros(1, 3, 10, 10)).streams
    assert set(streams) == {'conv2', 'fc'}
    assert (streams['conv2'].module, streams['conv2'].side) == ('conv1', 'input')
    assert (streams['fc'].module, streams['fc'].side) == ('norm', 'input')
    bn = residual.bn.weight / (residual.bn.running_var + residual.bn.eps).sqrt()
    assert torch.allclose(streams['conv2'].scale.float(), bn, rtol=1e-3)
    assert torch.allclose(streams['fc'].scale.float(), residual.gamma, rtol=1e-3)


def test_layers_without_a_nonlinearity_behind_are_found_by_looking(residual):
    names = ['stem', 'conv1', 'conv2', 'fc', 'last']
    assert look_behind(residual, names, torch.zeros(1, 3, 10, 10)).linear == {'conv2', 'fc', 'last'}
    chain = nn.Sequential(
        nn.Conv2d(3, 4, 1),  # feeds a layer
        nn.Conv2d(4, 4, 3),  # through a batch norm
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 1),  # through a nonlinearity
        nn.ReLU(),
        nn.Conv2d(4, 2, 1),  # makes the output
    ).eval()

    def linear(names):
        return look_behind(chain, names, torch.zeros(1, 3, 10, 10)).linear

    assert linear(['0', '1', '3', '5']) == {'0', '1', '5'}
    with torch.no_grad():  # the ReLU is on for all channels but one, and off for that
        chain[3].bias.copy_(torch.tensor([-100.0, 100, 100, 100]))
    assert '3' not in linear(['0', '1', '3', '5'])
    assert linear(['0', '3', '5']) == {'5'}  # of these
    with torch.no_grad():  # a channel that is constant tells nothing
        chain[0].weight[1] = 0
    assert linear(['0', '1']) == {'0'}


@torch.no_grad()
def test_a_second_branch_beside_a_layer_is_no_stream():
    """A channel that is constant there (a dead ReLU's) says nothing of what the layer writes."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.relu = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()
            self.a, self.b = (nn.Conv2d(6, 6, 3, padding=1, groups=6) for _ in range(2))
            self.add = nn.Identity()

        def forward(self, x):
            x = self.relu(self.stem(x))
            return self.add(F.relu(self.a(x) + self.b(x)))

    torch.manual_seed(0)
    model = Branches().eval()
    model.stem.bias[0] = -100
    assert not look_behind(model, ['stem', 'a', 'b'], torch.zeros(1, 3, 10, 10)).streams


class Maps(nn.Module):
    """A stream that is seen beside the size of its map, and layers that are called by keyword."""

    def __init__(self):
        super().__init__()
        self.embed, self.sized = nn.Conv2d(3, 8, 2, 2), Sized()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        x, _ = self.sized(input=self.embed(x))
        return x + self.fc2(input=F.gelu(self.fc1(F.layer_norm(x, (8,)))))


class Sized(nn.Module):
    def forward(self, input):
        return input.flatten(2).transpose(1, 2), input.shape[2:]


@torch.no_grad()
def test_streams_beside_sizes_and_layers_that_are_called_by_keyword():
    torch.manual_seed(0)
    model = insert_denoisers(Maps().eval(), cascade=MEASURED, reach='kernel')
    assert list(denoisers(model)) == ['embed', 'fc2']
    streams = look_behind(model, ['fc2'], torch.zeros(1, 3, 10, 10)).streams
    assert (streams['fc2'].module, streams['fc2'].side) == ('sized', 'output')
    report = calibrate_measured(model, pairs_of(12), pairs_of(14)[12:])
    assert report.chosen.error.total(0.5) < report.stock.total(0.5)
    image = torch.randn(2, 3, 10, 10)
    expected = model(image)
    with explicit_denoising(model):
        assert torch.allclose(model(image), expected, atol=1e-5)


class Forgetful(nn.Module):
    """Keeps its skip connection on itself, where passes that run side by side find each other's."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x):
        self.skip = self.stem(x).relu()
        return self.skip.tanh() + self.conv(self.skip).relu() * self.skip


def test_a_network_that_keeps_features_on_itself_is_refused():
    model = insert_denoisers(Forgetful().eval(), cascade=MEASURED, reach='kernel')
    with pytest.raises(ValueError, match='Forgetful keeps features on itself while it runs'):
        calibrate_measured(model, pairs_of(4), pairs_of(5)[4:])
    assert not any(d.weight.any() for d in denoisers(model).values())


def test_depthwise_layers_may_be_chosen_by_name():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4))
    insert_denoisers(model, ['.*'], cascade=MEASURED, reach='kernel')
    assert list(denoisers(model)) == ['0', '1']


def test_layers_are_in_the_order_of_the_data_whatever_the_steps():
    """Which mean nothing here: the first layer is found by them."""

    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Conv2d(4, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.last(self.first(x).relu())

    cascade = Cascade(noise='measured', spacing=0, last_step=7)
    model = insert_denoisers(Backwards(), cascade=cascade, reach='kernel')
    assert list(denoisers(model)) == ['first', 'last']
    assert cascade.steps(2000)[0] == 2000  # no schedule runs out


def test_measured_noise_is_not_drawn(residual):
    model = with_denoisers(residual)
    with pytest.raises(ValueError, match='measured noise is not drawn: train on pairs'):
        denoisers(model)['conv1'].noise_loss(torch.zeros(2, 6, 10, 10))


def pairs_of(count: int, size: int = 10, std: float = 0.3) -> list:
    generator = torch.Generator().manual_seed(1)
    pairs = []
    for _ in range(count):
        coarse = torch.randn(2, 3, 4, 4, generator=generator)
        clean = F.interpolate(coarse, (size, size), mode='bicubic')
        noise = std * torch.randn(clean.shape, generator=generator)
        pairs.append(Pair(clean, clean + noise))
    return pairs


def with_denoisers(model, **options):
    example = torch.zeros(1, 3, 10, 10)
    options = {'targets': ['stem', 'conv.', 'fc', 'last'], 'reach': 'kernel', **options}
    return insert_denoisers(model, cascade=MEASURED, example=example, **options)


@pytest.mark.parametrize('keep_clean', [0.0, 0.3, 1.0])
@torch.no_grad()
def test_one_pass_is_one_pass_a_layer(residual, keep_clean):
    """Each layer's moments written out, on the students that earlier layers make."""
    model = with_denoisers(residual)
    streams = look_behind(model, list(denoisers(model)), torch.zeros(1, 3, 10, 10)).streams
    pairs = pairs_of(3)
    PairPass(model, streams, keep_clean, 0.1, 0.5, max_tokens=None).run(pairs)
    solved = {name: d.weight.clone() for name, d in denoisers(model).items()}
    for denoiser in denoisers(model).values():
        denoiser.weight.zero_()
    for name, denoiser in denoisers(model).items():
        layer, stream = model.get_submodule(name), streams.get(name)
        flat = layer.parametrizations.weight.original.flatten(1)
        gram = cross = 0.0
        count = 0
        for pair in pairs:
            with stock_weights(denoisers(model)):
                z, u = look(model, layer, stream, pair.clean)
            for inputs, weight in ((pair.degraded, 1 - keep_clean), (pair.clean, keep_clean)):
                z_student, u_student = look(model, layer, stream, inputs)
                gain = z - z_student
                if stream is not None:
                    gain = gain @ flat.T + (u - u_student) / stream.scale.float()
                gram = gram + weight * (z_student.T @ z_student).double()
                cross = cross + weight * (gain.T @ z_student).double()
                count += weight * len(z)
        gram, cross = gram / count, cross / count
        rho = (0.1 if stream is None else 0.5) * gram.diagonal().mean()
        change = cross @ torch.linalg.inv(gram + rho * torch.eye(len(gram)))
        if stream is not None:
            change = torch.linalg.pinv(flat.double(), rtol=1e-4) @ change
        a = torch.eye(change.shape[-1]) - solved[name][0]
        assert (solved[name][0] + change).norm() < 1e-6 * a.norm(), name
        denoiser.weight.copy_(solved[name])
    if keep_clean == 1:  # nothing to take out
        assert all(weight.abs().max() < 1e-6 for weight in solved.values())


def look(model, layer, stream, inputs):
    """The vectors that a layer sees, and the stream before it."""
    seen = {}
    handles = [layer.register_forward_pre_hook(lambda m, args: seen.update(x=args[0].clone()))]
    if stream is not None:
        module = model.get_submodule(stream.module)
        handles.append(
            module.register_forward_pre_hook(lambda m, args: seen.update(u=args[0].clone()))
        )
    model(inputs)
    for handle in handles:
        handle.remove()
    conv = isinstance(layer, nn.Conv2d)
    z = take_patches(seen['x'], layer) if conv else seen['x'].flatten(0, 1)
    u = seen.get('u')
    if u is not None:
        u = u.permute(0, 2, 3, 1).flatten(0, 2) if conv else u.flatten(0, 1)
    return z, u


@torch.no_grad()
def test_images_that_do_not_fit_are_added_in_further_passes():
    """The first layer has the same student in every pass, so its solution is that of all images."""
    torch.manual_seed(0)
    pairs, solved = pairs_of(4), []
    for parts in ([pairs], [pairs[:2], pairs[2:]]):
        torch.manual_seed(0)
        model = with_denoisers(Residual().eval())
        solver = PairPass(model, {}, 0.5, 0.1, 0.1, max_tokens=None)
        for i, part in enumerate(parts):
            solver.run(part, more=i + 1 < len(parts))
        solved.append([d.weight.clone() for d in denoisers(model).values()])
    assert torch.allclose(solved[0][0], solved[1][0], atol=1e-6)
    assert all(torch.isfinite(weight).all() for weight in solved[1])


@torch.no_grad()
def test_layers_are_solved_again_when_the_images_have_grown(residual, monkeypatch):
    monkeypatch.setattr('mmdenoiserep.calibration.pairs.GROWTH', 2)
    model, changed = with_denoisers(residual), []
    solver = PairPass(model, {}, 0.5, 0.1, 0.1, max_tokens=None)
    for i, pair in enumerate(pairs_of(6)):
        before = [d.weight.clone() for d in denoisers(model).values()]
        solver.run([pair], more=i < 5)
        after = [d.weight for d in denoisers(model).values()]
        changed.append(not all(map(torch.equal, before, after)))
    assert changed == [True, True, False, True, False, True]


def test_passes_are_as_many_as_fit_into_memory(residual, monkeypatch):
    """The widest layer of `Residual` holds 6 x 10 x 10 floats before and behind it."""
    pair = pairs_of(1)[0]
    alive = 4 * 3 * ((6 + 6) * 100 + 4 * 100)  # of three passes
    assert images_at_once(residual, pair, 20, 20 * alive) == 20
    assert images_at_once(residual, pair, 21, 20 * alive) == 20
    assert images_at_once(residual, pair, 21, 1) == len(pair.clean)
    model = with_denoisers(copy.deepcopy(residual))
    sums = 16 * sum(d.weight.numel() for d in denoisers(model).values())
    assert images_at_once(model, pair, 20, 20 * alive) == 20  # one pass keeps none
    assert images_at_once(model, pair, 100, 20 * alive + sums) == 20  # sums are kept as well
    monkeypatch.setattr(
        'mmdenoiserep.calibration.measured.images_at_once', lambda *args: 2 * len(pair.clean)
    )
    runs, said = [], []
    run = PairPass.run
    monkeypatch.setattr(
        PairPass, 'run', lambda self, *args, **more: (runs.append(more), run(self, *args, **more))
    )
    calibrate_measured(
        with_denoisers(residual),
        pairs_of(4),
        pairs_of(5)[4:],
        ridges=[(0.1, 1)],
        progress=said.append,
    )
    assert [more['more'] for more in runs[-2:]] == [True, False]
    assert not any(more['more'] for more in runs[:-2])  # trials of some of the images
    assert any('images in a pass' in line for line in said)


def test_what_a_pass_takes_is_what_flows_through_layers_and_not_their_weights():
    model = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 3, padding=1)).eval()
    pair = Pair(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32))
    stock = images_at_once(model, pair, 10**6, budget=10**9)
    insert_denoisers(model, cascade=MEASURED, reach='kernel', targets=['1'])
    denoised = images_at_once(model, pair, 10**6, budget=10**9 + 16 * 576**2)
    assert denoised == stock


@torch.no_grad()
def test_a_wide_layer_takes_as_many_tokens_as_it_needs(residual, monkeypatch):
    monkeypatch.setattr('mmdenoiserep.calibration.pairs.LEAST_TOKENS', 1)
    counts = {}
    add = PairMoments.add

    def counted(self, z, gain, weight):
        width = self.gram.shape[-1]
        counts[width] = counts.get(width, 0) + len(z)
        add(self, z, gain, weight)

    monkeypatch.setattr(PairMoments, 'add', counted)
    model = with_denoisers(residual, targets=['stem'])
    PairPass(model, {}, 0.5, 0.1, 0.1, max_tokens=100).run(pairs_of(4))
    assert counts[27] == pytest.approx(8 * 27, abs=8)  # and not 100 an image


@torch.no_grad()
def test_calibration_brings_the_output_back_and_fuses(residual):
    stock = copy.deepcopy(residual)
    model = with_denoisers(residual)
    report = calibrate_measured(model, pairs_of(12), pairs_of(14)[12:], keep_clean=0.5)
    assert report.chosen.error.total(0.5) < report.stock.total(0.5)
    assert report.stock.clean < 1e-10
    assert sum(count for _, count, _ in report.groups) == len(report.chosen.plan.layers)
    assert report.groups[-1][2] == report.chosen.error
    held_back = pairs_of(14)[12:]
    assert output_error(model, denoisers(model), held_back) == report.chosen.error
    x = held_back[0].degraded
    running = model(x)
    weights = {name: model.get_submodule(name).weight for name in denoisers(model)}
    with explicit_denoising(model):
        assert torch.allclose(model(x), running, atol=1e-5)
    fused = fuse_denoisers(model)
    assert all(torch.equal(fused.get_submodule(n).weight, w) for n, w in weights.items())
    assert torch.allclose(fused(x), running, atol=1e-6)  # libraries need not repeat the last bit
    assert list(model.state_dict()) == list(stock.state_dict())
    assert 'layers up to' in str(report) and 'stock' in str(report)


@torch.no_grad()
def test_the_output_is_judged_by_amplitude_and_by_direction():
    """Of channels of a map: the mean of 1 − cos over positions does not see an amplitude."""
    model = with_denoisers(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False)), targets=['0'])
    (pair,) = pairs_of(1)
    f, degraded = model(pair.clean), model(pair.degraded)
    error = output_error(model, denoisers(model), [pair])
    assert error.clean == pytest.approx(0, abs=1e-12)
    cosine = (f * degraded).sum(1) / (f.norm(dim=1) * degraded.norm(dim=1))
    assert error.turned == pytest.approx(float((1 - cosine).mean()), rel=1e-5)
    spreads = [(x - x.mean((0, 2, 3), keepdim=True)).norm() for x in (f, degraded)]
    expected = (f - degraded).square().sum() / (spreads[0] * spreads[1])
    assert error.degraded == pytest.approx(float(expected), rel=1e-5)
    # A = 2 I doubles the student's output and not the teacher's.
    denoisers(model)['0'].weight.copy_(-torch.eye(3))
    targets = stock_outputs(model, denoisers(model), [pair, pair], memory=f.nbytes)
    assert torch.equal(targets[0][0], f) and targets[1] is None  # no room for two
    doubled = output_error(model, denoisers(model), [pair], targets)
    assert doubled.turned == pytest.approx(error.turned, rel=1e-5)
    assert doubled.clean == pytest.approx(0.5 * float((f / spreads[0]).square().sum()), rel=1e-5)


@torch.no_grad()
def test_layers_are_chosen_by_the_output(residual, monkeypatch):
    """All of them, or those that shrink nothing in front of a nonlinearity."""
    linear = ('stem', 'conv2', 'fc', 'last')
    for better in (linear, ('stem', 'conv1', 'conv2', 'fc', 'last')):
        model = with_denoisers(copy.deepcopy(residual))

        def judged(model, modules, *_, better=better):
            solved = {name for name, d in modules.items() if d.weight.any()}
            return OutputError(1.0 if not solved else 0.1 if solved == set(better) else 0.2, 0, 0)

        monkeypatch.setattr('mmdenoiserep.calibration.measured.output_error', judged)
        report = calibrate_measured(model, pairs_of(4), pairs_of(5)[4:])
        assert report.chosen.plan.layers == better
        assert ('4 of 5 layers' in str(report)) == (better == linear)
        # Of each trial two strengths.
        assert [choice.plan.layers for choice in report.tried[:6:2]].count(linear) == 1
        assert {n for n, d in denoisers(model).items() if d.weight.any()} == set(better)


@pytest.mark.parametrize(
    'error, turned, better', [(0.1, 0.3, True), (0.199, 0.3, False), (0.1, 0.31, False)]
)
@torch.no_grad()
def test_variance_is_restored_where_the_output_says_so(
    residual, monkeypatch, error, turned, better
):
    """Of layers that are solved by their own input, where it is better and turns nothing."""
    model = with_denoisers(residual)
    restored = []

    def mark(moments, change):
        restored.append(change)
        return change + 100 * torch.eye(change.shape[-1])

    def judged(model, modules, *_):
        marked = any(d.weight.abs().max() > 40 for d in modules.values())
        solved = any(d.weight.any() for d in modules.values())
        if marked:
            return OutputError(error, 0.0, turned)
        return OutputError(0.2 if solved else 1.0, 0.0, 0.3)

    monkeypatch.setattr(PairMoments, 'with_variance', mark)
    monkeypatch.setattr('mmdenoiserep.calibration.measured.output_error', judged)
    report = calibrate_measured(model, pairs_of(4), pairs_of(5)[4:])
    assert report.chosen.plan.restored == better
    assert ('variance restored' in str(report)) == better
    # Of stem and last, then of stem, conv1 and last, or again of the former: never of conv2 and fc.
    assert len(restored) == (2 + 2 if better else 2 + 3)


@pytest.mark.parametrize(
    'errors, chosen',
    [
        ((0.2, 0.19, 0.1), 0.5),
        ((0.2, 0.198, 0.199), 1),
        ((0.2, 0.19, 0.188), 0.75),
        ((0.2, 0.198, 0.196), 0.75),
    ],
)
def test_less_strength_must_be_clearly_better(errors, chosen):
    found = dict(zip(STRENGTHS, errors))
    search = Search(
        solve=lambda pairs, plan: {},
        judge=lambda solved, strength: OutputError(found[strength], 0.0, 0.0),
        keep_clean=0.0,
        strengths=STRENGTHS,
        progress=lambda text: None,
    )
    assert search.best_strength(Plan(1, 1, ('a',), False), {}, STRENGTHS).strength == chosen
    assert len(search.tried) == len(STRENGTHS)


def test_variance_that_least_squares_took_is_given_back():
    """Of features as they are behind a ReLU: with a mean, and of which a bias must be made."""
    torch.manual_seed(0)
    z = F.relu(torch.randn(4000, 2, 8, dtype=torch.float64) + torch.linspace(0, 1, 8))
    z_student = F.relu(z + 0.8 * torch.randn_like(z))
    moments = PairMoments(2, 8, 8, z.device, means=True)
    moments.add(z_student.flatten(1), (z - z_student).flatten(1), 0.7)
    moments = moments.merged()
    shrunk = moments.regress(0.01)

    def applied(change):
        return torch.einsum('gij,kgj->kgi', change + torch.eye(8), z_student)

    restored = applied(moments.with_variance(shrunk))
    assert (applied(shrunk).std(0) < 0.95 * z.std(0)).all()
    assert torch.allclose(restored.mean(0), z.mean(0), rtol=0.1)
    assert torch.allclose(restored.std(0), z.std(0), rtol=0.05)


def test_nothing_worse_than_stock_is_handed_out(residual):
    """Clean images alone: no denoiser can be better than none."""
    model = with_denoisers(residual)
    pairs = [Pair(pair.clean, pair.clean) for pair in pairs_of(4)]
    with pytest.raises(ValueError, match='nothing that was tried is better than the stock'):
        calibrate_measured(model, pairs[:3], pairs[3:])
    assert not any(d.weight.any() for d in denoisers(model).values())


@torch.no_grad()
def test_what_is_not_finite_is_never_chosen(residual, monkeypatch):
    model = with_denoisers(residual)
    monkeypatch.setattr(
        'mmdenoiserep.calibration.measured.output_error',
        lambda model, modules, *_: overflow(sum(d.weight.abs().sum() for d in modules.values())),
    )
    found = []

    def overflow(size):
        found.append(float(size))
        return OutputError(1.0 if not size else float('nan') if len(found) < 4 else 0.3, 0.0, 0.0)

    report = calibrate_measured(model, pairs_of(12), pairs_of(14)[12:])
    first, _, second = (choice.plan.ridge for choice in report.tried[:3])
    assert report.chosen.plan.ridge == second != first  # with both strengths


def test_transport_needs_no_pairs():
    """The map between two Gaussians carries one second moment into the other."""
    torch.manual_seed(0)
    mixing = torch.randn(4, 4)
    x = torch.randn(20000, 4) @ mixing.T
    y = (torch.randn(20000, 4) @ mixing.T) * torch.tensor([2.0, 1.0, 0.5, 3.0])
    moments = PairMoments(1, 4, 4, x.device)
    moments.add_unpaired(x, y)
    a = torch.eye(4) + moments.transport(1e-6)[0].float()
    moved = y @ a.T
    assert torch.allclose(moved.T @ moved / len(y), x.T @ x / len(x), rtol=1e-2, atol=1e-2)
    model = with_denoisers(Residual().eval(), depthwise=True)
    large, small = pairs_of(3), pairs_of(3, size=6)
    others = [Pair(a.clean, b.degraded) for a, b in zip(large, small)]
    # κ, the share of clean images, has no part in it, even where it is all.
    PairPass(model, {}, 1.0, 0.1, 0.1, method='transport', max_tokens=20).run(others)
    assert all(torch.isfinite(d.weight).all() and d.weight.any() for d in denoisers(model).values())


def test_a_failure_in_a_pass_ends_all_of_it(residual):
    model = with_denoisers(residual)
    broken = pairs_of(2)
    broken[1].degraded[0, 0, 0, 0] = float('nan')
    with pytest.raises(ValueError, match=r"layer 'stem'.*(NaN|finite|positive)"):
        PairPass(model, {}, 0.5, 0.1, 0.1).run(broken)
    assert not any(d.bypassed or d.observers for d in denoisers(model).values())

    def interrupted(text):
        if 'ridge' in text:  # a trial was judged: its solution is in the model
            assert any(d.weight.any() for d in denoisers(model).values())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate_measured(model, pairs_of(2), pairs_of(3)[2:], progress=interrupted)
    assert not any(d.weight.any() for d in denoisers(model).values())

    ended = []

    def pauses():
        try:
            model(pairs_of(1)[0].clean)
        finally:
            ended.append(True)

    def fail():
        raise KeyboardInterrupt

    for last, error in ((fail, KeyboardInterrupt), (lambda: None, ValueError)):
        jobs = [Job(pauses, False), Job(last, True)]
        with pytest.raises(error, match='different paths' if error is ValueError else None):
            run_in_lockstep(denoisers(model), jobs, lambda *_: None)
        assert ended.pop()
        assert not any(d.bypassed or d.observers for d in denoisers(model).values())


def test_default_layers_of_measured_noise():
    model = insert_denoisers(ToyBackbone(), cascade=MEASURED, reach='kernel')
    assert list(denoisers(model)) == ['stem', 'conv1', 'conv2']  # a chain: everything

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 4, 4)
            self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
            self.qkv, self.proj = nn.Linear(8, 8), nn.Linear(8, 8)
            self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x):
            x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))  # a copy, as DaViT's is
            x = self.embed(x).flatten(2).transpose(1, 2)
            x = x + self.proj(torch.tanh(self.qkv(self.norm1(x))))
            return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    torch.manual_seed(0)
    model = insert_denoisers(Transformer(), cascade=MEASURED, reach='kernel')
    assert list(denoisers(model)) == ['embed', 'proj', 'fc2']


class ChannelsLast(nn.Module):
    """ConvNeXt's block: the stream is (N, C, H, W), the branch (N, H, W, C) from the norm on."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 2, stride=2)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm = nn.LayerNorm(6)
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 6)
        self.gamma = nn.Parameter(torch.linspace(0.5, 2, 6))
        self.drop_path = nn.Identity()

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = (self.gamma * self.fc2(F.gelu(self.fc1(y)))).permute(0, 3, 1, 2)
        return x + self.drop_path(y)


@torch.no_grad()
def test_a_stream_in_another_layout_is_found_and_denoised():
    torch.manual_seed(0)
    block = ChannelsLast().eval()
    # 12 pixels: the map has six columns, as many as it has channels.
    streams = look_behind(
        block, ['stem', 'depthwise', 'fc1', 'fc2'], torch.zeros(1, 3, 12, 12)
    ).streams
    assert set(streams) == {'fc2'}
    stream = streams['fc2']
    assert (stream.module, stream.side, stream.channel_dim) == ('depthwise', 'input', -3)
    assert torch.allclose(stream.scale.float(), block.gamma, rtol=1e-3)

    model = insert_denoisers(block, cascade=MEASURED, reach='kernel', targets=['fc2'])
    (pair,) = pairs_of(1, std=0.1)
    PairPass(model, streams, 0.0, 1e-6, 1e-6, max_tokens=None).run([pair])
    with stock_weights(denoisers(model)):
        target, degraded = model(pair.clean), model(pair.degraded)
    error = (model(pair.degraded) - target).square().sum() / (degraded - target).square().sum()
    assert error < 0.9  # of the noise on the stream, which passes the branch by


class Bottleneck(nn.Module):
    """ResNet's: fewer entries go in than come out, and a batch norm in front of the sum."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.conv1, self.conv2 = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.conv3 = nn.Conv2d(6, 24, 1, bias=False)
        self.norm = nn.BatchNorm2d(24)

    def forward(self, x):
        x = self.stem(x)
        return x + self.norm(self.conv3(self.conv2(self.conv1(x).relu()).relu()))


@torch.no_grad()
def test_a_channel_that_writes_next_to_nothing_does_not_rule_the_others():
    errors = []
    for scale in (1, 1e-4, 1e-8, 0):
        torch.manual_seed(0)
        model = Bottleneck().eval()
        model.norm.weight[0] = scale
        insert_denoisers(model, cascade=MEASURED, reach='kernel', targets=['conv3'])
        report = calibrate_measured(model, pairs_of(12), pairs_of(14)[12:])
        errors.append(report.chosen.error.total(0.5))
        assert model.conv3.weight.abs().max() < 10
    assert errors == pytest.approx([errors[0]] * 4, rel=0.02)


def test_default_layers_of_convnext():
    from mmpretrain.models import ConvNeXt

    torch.manual_seed(0)
    arch = dict(depths=[1, 1, 1, 1], channels=[8, 12, 16, 24])
    # The layer scale of 1e-6, with which it is built, hides what is written until a checkpoint is
    # loaded.
    model = ConvNeXt(arch, out_indices=[0, 1, 2, 3])
    scales = [m.gamma for stage in model.stages for m in stage]
    assert all((scale == 1e-6).all() for scale in scales)
    model = insert_denoisers(model, cascade=MEASURED, reach='kernel')
    writers = [f'stages.{stage}.0.pointwise_conv2' for stage in range(4)]
    assert list(denoisers(model)) == ['downsample_layers.0.0', *writers]
    assert all((scale == 1e-6).all() for scale in scales)


def test_a_stream_seen_by_a_module_that_runs_twice_is_looked_for_elsewhere():
    """DDRNet's ReLU: which of its calls saw the stream cannot be told from its name."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.relu = nn.ReLU()
            self.branch = nn.Sequential(nn.Conv2d(6, 6, 1), nn.GELU(), self.conv)

        def forward(self, x):
            u = self.relu(self.stem(x))
            return self.relu(u + self.branch(u))

    torch.manual_seed(0)
    model = insert_denoisers(Shared().eval(), cascade=MEASURED, reach='kernel')
    streams = look_behind(model, list(denoisers(model)), torch.zeros(1, 3, 10, 10)).streams
    assert {(s.module, s.side) for s in streams.values()} == {('branch.0', 'input')}
    report = calibrate_measured(model, pairs_of(12), pairs_of(14)[12:])
    assert report.chosen.error.total(0.5) < report.stock.total(0.5)


def test_denoisers_of_one_noise_are_not_calibrated_for_the_other(residual):
    model = with_denoisers(residual)
    with pytest.raises(ValueError, match='of measured noise, not of gaussian; give the degradatio'):
        calibrate(model, [torch.randn(2, 3, 10, 10)])
    model = insert_denoisers(ToyBackbone())
    for denoiser in denoisers(model).values():
        nn.init.ones_(denoiser.weight)
    with pytest.raises(ValueError, match='of gaussian noise, not of measured; give no degradation'):
        calibrate_measured(model, pairs_of(2), pairs_of(3)[2:])
    assert all((d.weight == 1).all() for d in denoisers(model).values())


class Strided(nn.Module):
    """A residual block with stride, whose 1x1 shortcut is made last, as ResNet's is."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.shortcut = nn.Conv2d(3, 6, 1, stride=2)
        self.relu = nn.ReLU()
        self.last = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        y = self.conv2(self.relu(self.conv1(x)))
        y = y + self.shortcut(x)
        return self.last(self.relu(y))


@pytest.mark.parametrize('reach', ['kernel', 'channel'])
@torch.no_grad()
def test_a_strided_writer_is_solved_where_its_output_is(reach):
    torch.manual_seed(0)
    model = insert_denoisers(Strided().eval(), cascade=MEASURED, reach=reach)
    streams = look_behind(model, list(denoisers(model)), torch.zeros(1, 3, 12, 12)).streams
    assert set(streams) == {'shortcut'}
    pairs, held_back = pairs_of(8), pairs_of(10)[8:]

    def error():
        total = 0
        for pair in held_back:
            with stock_weights(denoisers(model)):
                target = model(pair.clean)
            for inputs, weight in ((pair.degraded, 0.8), (pair.clean, 0.2)):
                total += weight * (model(inputs) - target).square().sum()
        return total

    before = error()
    PairPass(model, streams, 0.2, 0.01, 0.01, max_tokens=None).run(pairs * 4)
    assert error() < before
