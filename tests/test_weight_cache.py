"""W A is computed once a step and once an evaluation, and never from weights that have changed."""

import copy

import pytest
import torch
from torch import nn
from toy import ToyBackbone

from mmdenoiserep import Denoiser, denoisers, fuse_denoisers, insert_denoisers
from mmdenoiserep.network.weight_cache import one_weight_per_step
from mmdenoiserep.training import (
    denoising_losses,
    fuse_optimizer,
    observe_inputs,
    record_noise_losses,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = insert_denoisers(ToyBackbone())
    for denoiser in denoisers(model).values():
        nn.init.normal_(denoiser.weight)
    return model.eval()


@pytest.fixture
def computed(monkeypatch):
    """The denoisers that computed a W A, one entry each time."""
    calls, own = [], Denoiser._fuse
    monkeypatch.setattr(Denoiser, '_fuse', lambda self, w: calls.append(self) or own(self, w))
    return calls


def caches(model):
    return [denoiser.cache for denoiser in denoisers(model).values()]


def fresh(model, x):
    """The output of a model that remembers nothing."""
    other = copy.deepcopy(model)
    for denoiser in denoisers(other).values():
        denoiser.cache.forget()
    return other(x)


X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_once_an_evaluation(model, computed):
    with torch.no_grad():
        for _ in range(3):
            model(X)
    assert len(computed) == 2


@pytest.mark.parametrize('part', ['original', '0.weight'])
@torch.no_grad()
def test_changed_weights_are_seen(model, part):
    name = f'conv1.parametrizations.weight.{part}'
    parameter = model.get_parameter(name)
    changes = {
        'in place': lambda: parameter.mul_(2),
        'loading': lambda: model.load_state_dict({**model.state_dict(), name: parameter * 3}),
        'new data': lambda: setattr(parameter, 'data', parameter.data * 5),
        # As MMEngine's EMAHook swaps: through `.data`, before the loop calls eval().
        'swap': lambda: (parameter.data.mul_(7), model.eval()),
        'double': lambda: model.double().float(),
    }
    for change in changes.values():
        before = model(X)
        change()
        assert torch.equal(model(X), fresh(model, X))
        assert change is changes['double'] or not torch.equal(model(X), before)


@pytest.mark.parametrize('fused', [False, True])
def test_an_optimizer_step_is_seen(model, fused):
    """Fused steps do not change a tensor's version."""
    optimizer = torch.optim.SGD([d.weight for d in denoisers(model).values()], lr=1.0)
    if fused and not fuse_optimizer(optimizer):
        pytest.skip('this release of PyTorch has no fused SGD for the CPU')
    with torch.no_grad():
        before = model(X)
    model(X).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert torch.equal(model(X), fresh(model, X)) and not torch.equal(model(X), before)


def test_once_a_step_with_a_graph_of_its_own(model, computed):
    for _ in range(2):  # as gradient accumulation: no weight changes between two backward passes
        with one_weight_per_step(caches(model)):
            (model(X) + model(X)).sum().backward()
    assert len(computed) == 4
    gradient = denoisers(model)['conv1'].weight.grad.clone()
    model.zero_grad()
    for _ in range(4):
        model(X).sum().backward()
    assert torch.allclose(denoisers(model)['conv1'].weight.grad, gradient, rtol=1e-4)


def test_a_weight_without_a_graph_is_not_trained_through(model):
    with one_weight_per_step(caches(model)):
        with torch.no_grad():
            model(X)
        model(X).sum().backward()
    assert all(d.weight.grad is not None for d in denoisers(model).values())
    with torch.inference_mode():
        model(X)
    x = X.clone().requires_grad_()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model(x).sum().backward()  # saves weights for backward, which those of inference mode forbid
    assert x.grad is not None


@torch.no_grad()
def test_fusion_uses_the_weights_that_are(model):
    model(X)
    model.conv1.parametrizations.weight[0].weight.data.mul_(2)
    expected = fresh(model, X)
    assert torch.equal(fuse_denoisers(model)(X), expected)


def test_a_label_free_step_denoises_the_input_where_there_are_few_tokens(model, computed):
    """A x instead of W A: the features are the same, and nothing of it is left behind."""
    inputs = {}

    def observe(name, _, x):
        inputs.setdefault(name, []).append(x)

    few, many = X[:1, :, :7, :7], torch.randn(4, 3, 60, 60)  # 9 and 3364 tokens; 72 rows
    for x, explicit in ((few, True), (many, False)):
        inputs.clear()
        with torch.no_grad(), observe_inputs(denoisers(model), observe):
            expected = model(x)
            computed.clear()
            model.eval()  # forgets
            with one_weight_per_step(caches(model)):
                output = model(x)
        assert len(computed) == (0 if explicit else 2)
        assert torch.allclose(output, expected, atol=1e-5)
        for first, second in inputs.values():
            assert torch.allclose(first, second, atol=1e-5)
    with one_weight_per_step(caches(model)):  # label-aug trains through W A
        computed.clear()
        assert model(few).requires_grad and len(computed) == 2
    with torch.no_grad(), one_weight_per_step(caches(model)):
        with pytest.raises(RuntimeError):
            model.conv1(torch.zeros(1, 1, 3, 3))
        assert not any(d._explicit for d in denoisers(model).values())


@torch.no_grad()
def test_a_step_that_is_interrupted_leaves_the_weights_that_fuse(model, monkeypatch):
    expected = model(X)

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model.conv1, 'forward', interrupt, raising=False)
        with pytest.raises(KeyboardInterrupt), one_weight_per_step(caches(model)):
            model(X[:1, :, :7, :7])
    assert torch.allclose(fuse_denoisers(model)(X), expected, atol=1e-6)


@torch.no_grad()
def test_what_the_last_layer_puts_out_is_not_computed_label_free(model, computed):
    """No other denoiser sees it, so the losses are the same."""
    modules, images = denoisers(model), torch.randn(4, 3, 60, 60)
    with record_noise_losses(modules, 64, seed=0) as expected:
        model(images)
    model.eval()  # forgets
    computed.clear()
    losses = denoising_losses(modules, lambda: model(images), 1.0, 64, seed=0)
    assert computed == [modules['conv1']] and not modules['conv2'].bypassed
    for name, value in expected.items():
        assert torch.equal(losses.layers[name], value)
