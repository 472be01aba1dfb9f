"""The backbone: what it consists of, what it takes, and how it trains."""

import copy
import math
import re

import pytest
import torch
from mmengine.registry import MODELS
from published_vmamba import PUBLISHED, shapes
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from projects.vmamba.vmamba import VMamba
from projects.vmamba.vmamba.layers import SS2D, DropPath, VSSBlock

SMALL = dict(embed_dims=16, depths=(1, 2, 1, 1), ssm_ratio=2, d_state=2)
FEED_FORWARD = re.compile(r'(.*\.)?(ffn|mlp|feed_forward)(\..*)?')


@pytest.mark.parametrize('name', PUBLISHED)
def test_names_and_shapes_are_the_published_ones(name):
    with torch.device('meta'):
        model = VMamba(name)
    found = {key: (*value.shape,) for key, value in model.state_dict().items()}
    found['classifier.norm.weight'] = found.pop('outnorm3.weight')
    found['classifier.norm.bias'] = found.pop('outnorm3.bias')
    expected = shapes(name)
    head = [expected.pop(f'classifier.head.{key}') for key in ('weight', 'bias')]
    assert found == expected
    assert len(found) + 2 == PUBLISHED[name].tensors
    size = sum(p.numel() for p in model.parameters()) + sum(map(math.prod, head))
    assert size == PUBLISHED[name].parameters


@pytest.mark.parametrize('name', PUBLISHED)
def test_the_feed_forward_layers_are_two_linear_layers_of_each_block(name):
    with torch.device('meta'):
        model = VMamba(name)
    layers = (nn.Linear, nn.Conv2d)
    found = {n: m for n, m in model.named_modules() if isinstance(m, layers)}
    chosen = [n for n in found if FEED_FORWARD.fullmatch(n)]
    assert chosen == [
        f'layers.{i}.blocks.{j}.mlp.fc{k}'
        for i, depth in enumerate(PUBLISHED[name].depths)
        for j in range(depth)
        for k in (1, 2)
    ]
    assert all(type(found[n]) is nn.Linear for n in chosen)


@pytest.mark.parametrize(
    ('name', 'published'),
    [('tiny', 4.906), ('tiny-s2l5', 4.858), ('small', 8.716), ('base', 15.359)],
)
def test_flops_at_224_pixels_as_the_published_code_counts_them(name, published):
    with torch.device('meta'):
        model, images = VMamba(name).eval(), torch.empty(1, 3, 224, 224)
    norms = []
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda m, args, out: norms.append(5 * out.numel()))
    counter = FlopCounterMode(display=False)
    with counter:
        model(images)
    head = PUBLISHED[name].dims[-1] * 1000
    products = counter.get_total_flops() // 2 + head  # a multiplication and its addition are one
    scans = 0
    for i, (depth, channels) in enumerate(zip(PUBLISHED[name].depths, PUBLISHED[name].inner)):
        # In four directions 9 operations for each of the N = 1 states, and one for the skip:
        # https://github.com/state-spaces/mamba/issues/110
        scans += depth * (9 + 1) * (56 >> i) ** 2 * 4 * channels
    assert (products + sum(norms) + scans) / 1e9 == pytest.approx(published, abs=1e-3)


@pytest.mark.parametrize('size', [(1, 1), (3, 2), (33, 47), (64, 64), (97, 130)])
def test_any_input_size(size):
    model = VMamba(SMALL, out_indices=(0, 1, 2, 3)).eval()
    images = torch.randn(3, 3, *size)
    with torch.no_grad():
        outs = model(images)
        single = model(images[1:2])
    for i, (out, one) in enumerate(zip(outs, single)):
        scale = 2 ** (i + 2)
        assert out.shape == (3, 16 * 2**i, -(-size[0] // scale), -(-size[1] // scale))
        assert out.is_contiguous() and torch.isfinite(out).all()
        torch.testing.assert_close(out[1:2], one, rtol=1e-4, atol=1e-4)


def test_out_indices():
    model = VMamba(SMALL, out_indices=(0, 1, 2, 3)).eval()
    images = torch.randn(1, 3, 40, 40)
    everything = model(images)
    for chosen in [(0,), (1, 3), (3, 1), (-1,), (-2, 0)]:
        part = VMamba(SMALL, out_indices=chosen).eval()
        report = part.load_state_dict(model.state_dict(), strict=False)
        assert not report.missing_keys
        stages = sorted(i % 4 for i in chosen)
        assert {key.split('.')[0] for key in report.unexpected_keys} == {
            f'outnorm{i}' for i in range(4) if i not in stages
        }
        found = part(images)
        assert isinstance(found, tuple) and len(found) == len(stages)
        assert all(torch.equal(x, everything[i]) for x, i in zip(found, stages))


def test_an_output_is_normalized_and_taken_before_downsampling():
    model = VMamba(SMALL, out_indices=(1,)).eval()
    seen = {}
    model.layers[1].blocks[-1].register_forward_hook(lambda m, args, out: seen.update(out=out))
    (out,) = model(torch.randn(1, 3, 40, 40))
    expected = F.layer_norm(seen['out'], (32,)).permute(0, 3, 1, 2)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize('frozen', range(-1, 5))
def test_frozen_stages(frozen):
    model = VMamba(SMALL, frozen_stages=frozen, drop_path_rate=0.5)
    expected = {'patch_embed'} if frozen >= 0 else set()
    expected |= {f'layers.{i}' for i in range(max(frozen, 0))}
    model.eval()
    model.train()
    model(torch.randn(2, 3, 32, 32))[0].sum().backward()
    for name, parameter in model.named_parameters():
        is_frozen = any(name.startswith(f'{part}.') for part in expected)
        assert parameter.requires_grad != is_frozen, name
        assert (parameter.grad is None) == is_frozen, name
    for name, module in model.named_modules():
        if isinstance(module, (VSSBlock, DropPath)):
            assert module.training != any(name.startswith(f'{part}.') for part in expected)


@pytest.mark.parametrize('frozen', [-1, 1])
def test_checkpointing_changes_no_gradient(frozen):
    model = VMamba(SMALL, drop_path_rate=0.5, frozen_stages=frozen)
    other = copy.deepcopy(model)
    other.with_cp = True
    calls = []
    other.layers[2].blocks[0].register_forward_hook(lambda *_: calls.append(1))
    images = torch.randn(4, 3, 40, 40)
    for network in (model, other):
        torch.manual_seed(1)  # the same paths are dropped
        network.train()
        network(images)[0].square().sum().backward()
    assert len(calls) == 2  # forward, and again for the backward pass
    for (name, p), q in zip(model.named_parameters(), other.parameters()):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, msg=name)


def test_gradients_reach_every_parameter():
    model = VMamba(SMALL, out_indices=(0, 3))
    outs = model(torch.randn(2, 3, 64, 64))
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_no_work_behind_the_last_output():
    model = VMamba(SMALL, out_indices=(1,)).eval()
    calls = []
    for i in range(4):
        for part in (model.layers[i].blocks[0], model.layers[i].downsample):
            part.register_forward_hook(lambda m, *_, i=i: calls.append(i))
    model(torch.randn(1, 3, 32, 32))
    assert calls == [0, 0, 1]


def test_half_precision():
    model = VMamba(SMALL).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        (expected,) = model(images)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            (found,) = model(images)
        (half,) = model.bfloat16()(images.bfloat16())
    assert half.dtype == torch.bfloat16
    for out in (found, half):
        assert (out.float() - expected).norm() < 0.03 * expected.norm()


def test_float64_is_kept():
    model = VMamba(SMALL).double().eval()
    images = torch.randn(1, 3, 40, 40).double()
    (found,) = model(images)
    assert found.dtype == torch.float64
    (single,) = model.float()(images.float())
    error = (found - single).norm() / found.norm()
    assert 1e-9 < error < 1e-5


def test_initialization():
    torch.manual_seed(0)
    op = SS2D(64, 2, 3)
    step = F.softplus(op.dt_projs_bias)
    assert 1e-3 * 0.999 <= step.min() < 2e-3 and 0.05 < step.max() <= 0.1 * 1.001
    assert torch.allclose(-op.A_logs.exp(), -torch.tensor([1.0, 2.0, 3.0]).expand(512, 3))
    assert (op.Ds == 1).all()
    assert 0.9 * 128**-0.5 < op.x_proj_weight.abs().max() <= 128**-0.5
    assert 0.9 * 4**-0.5 < op.dt_projs_weight.abs().max() <= 4**-0.5
    model = VMamba(dict(embed_dims=32, depths=(1, 1, 1, 1), ssm_ratio=1))
    model.init_weights()  # as the Runner does
    block = model.layers[3].blocks[0]
    assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert block.op.in_proj.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not block.mlp.fc1.bias.any() and (block.norm.weight == 1).all()
    assert 0.9 * 256**-0.5 < block.op.x_proj_weight.abs().max() <= 256**-0.5


def test_drop_path_grows_and_keeps_the_expectation():
    model = VMamba(SMALL, drop_path_rate=0.4)
    rates = [m.drop_path.rate for m in model.modules() if isinstance(m, VSSBlock)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    drop = DropPath(0.4)
    out = drop(torch.ones(10000, 2, 1, 1))
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert torch.equal(out[:, 0], out[:, 1])  # whole samples
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(out), out)


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg', 'mmpretrain'])
def test_every_scope_builds_it(scope):
    pytest.importorskip(scope)
    config = dict(type='VMamba', arch=SMALL, _scope_=scope)
    assert type(MODELS.build(config)) is VMamba


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='huge'), "arch must be one of .*'tiny'.*, got 'huge'"),
        (dict(out_indices=(4,)), r'out_indices must be in -4\.\.3'),
        (dict(frozen_stages=5), r'frozen_stages must be in -1\.\.4'),
        (dict(out_indices=()), 'out_indices'),
    ],
)
def test_what_does_not_exist_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VMamba(**options)
