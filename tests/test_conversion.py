import copy
import math

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_state_dict
from torch import nn
from toy import ToyBackbone, denoiserep_backbone

from mmdenoiserep import Cascade, NoiseSchedule, denoisers, fuse_denoisers, insert_denoisers
from mmdenoiserep.conversion import without_denoisers
from mmdenoiserep.network.layers import is_depthwise
from mmdenoiserep.training import record_noise_losses


def randomize(model: nn.Module) -> nn.Module:
    for denoiser in denoisers(model).values():
        nn.init.normal_(denoiser.weight)
    return model


def steps(model: nn.Module) -> dict:
    return {name: denoiser.step for name, denoiser in denoisers(model).items()}


class Transformer(nn.Module):
    """One block whose attention is never called: its parent reads the weight."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.attn = nn.Linear(8, 8)
        self.ffn = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + nn.functional.linear(x, self.attn.weight, self.attn.bias)
        return x + self.ffn(x)


class Separable(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))


def test_steps_follow_the_data_and_not_the_module_order():
    assert steps(insert_denoisers(ToyBackbone())) == {'conv1': 2, 'conv2': 1}


def test_feed_forward_layers_come_first():
    assert steps(insert_denoisers(Transformer())) == {'ffn.0': 2, 'ffn.2': 1}


def test_a_name_that_only_contains_mlp_is_no_feed_forward_layer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cpb_mlp = nn.Sequential(nn.Linear(2, 4))
            self.mlp = nn.Sequential(nn.Linear(4, 4))

        def forward(self, x):
            return self.mlp(self.cpb_mlp(x))

    assert steps(insert_denoisers(Net())) == {'mlp.0': 1}


def test_the_stem_and_depthwise_layers_are_left_out():
    model = Separable()
    assert is_depthwise(model[1]) and not is_depthwise(model[0])
    assert steps(insert_denoisers(model)) == {'2': 1}
    assert steps(insert_denoisers(Separable(), depthwise=True)) == {'1': 2, '2': 1}
    assert steps(insert_denoisers(Separable(), targets=['0', '2'])) == {'0': 2, '2': 1}


def test_a_network_of_linear_layers_may_take_images():
    class Net(nn.Module):  # as T2T-ViT: patches by unfolding, no convolution
        def __init__(self):
            super().__init__()
            self.mlp = nn.Sequential(nn.Linear(48, 8), nn.Linear(8, 8))

        def forward(self, x):
            assert x.ndim == 4
            return self.mlp(nn.functional.unfold(x, 4, stride=4).transpose(1, 2))

    assert steps(insert_denoisers(Net())) == {'mlp.0': 2, 'mlp.1': 1}


def test_targets_are_matched_in_full():
    assert steps(insert_denoisers(Transformer(), targets=[r'ffn\.2', 'embed'])) == {
        'embed': 2,
        'ffn.2': 1,
    }
    with pytest.raises(ValueError, match=r"target 'ffn' matches no layer.*'ffn\.0'"):
        insert_denoisers(Transformer(), targets=['ffn'])


def test_a_layer_that_is_never_called_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'attn' .*never called.*change `targets`"):
        insert_denoisers(Transformer(), targets=['attn', r'ffn\..*'])


def test_weight_standardized_convolutions_are_no_targets():
    class WeightStandardized(nn.Conv2d):
        def forward(self, x):
            weight = (self.weight - self.weight.mean()) / self.weight.std()
            return self._conv_forward(x, weight, self.bias)

    model = nn.Sequential(nn.Conv2d(3, 4, 3), WeightStandardized(4, 4, 3), nn.Conv2d(4, 4, 1))
    assert steps(insert_denoisers(model)) == {'2': 1}


def test_layers_that_share_a_weight_are_no_targets():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    assert steps(insert_denoisers(copy.deepcopy(model))) == {'1': 1}
    with pytest.raises(ValueError, match="'0', '2' shares its weight"):
        insert_denoisers(model, targets=['0', '1', '2'])


def test_one_layer_under_two_names_is_one_target():
    layer = nn.Linear(4, 4)
    assert steps(insert_denoisers(nn.Sequential(layer, nn.ReLU(), layer))) == {'0': 1}


def test_weights_that_are_computed_are_no_targets():
    model = nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    assert steps(insert_denoisers(model)) == {'0': 1}


def test_more_layers_than_steps_are_refused():
    with pytest.raises(ValueError, match='the cascade of 2 layers begins at step 2'):
        insert_denoisers(ToyBackbone(), cascade=Cascade(NoiseSchedule(num_steps=1)))


def test_the_cascade_can_be_stretched():
    model = insert_denoisers(ToyBackbone(), cascade=Cascade(estimate='x0', last_step=5, spacing=10))
    assert steps(model) == {'conv1': 15, 'conv2': 5}
    assert all(
        d.factor == math.sqrt(1 - d.schedule.alpha_bar(d.step)) for d in denoisers(model).values()
    )
    assert steps(insert_denoisers(ToyBackbone(), cascade=Cascade(last_step=5, spacing=0))) == {
        'conv1': 5,
        'conv2': 5,
    }
    for wrong in (dict(last_step=0), dict(spacing=-1)):
        with pytest.raises(ValueError, match='last_step is 1 or more, spacing 0 or more'):
            Cascade(**wrong)


def test_a_model_that_cannot_be_probed_says_what_to_give():
    class Picky(ToyBackbone):
        def forward(self, x):
            if x.shape[-1] != 20:
                raise RuntimeError('wants 20 pixels')
            return super().forward(x)

    with pytest.raises(ValueError, match=r'wants 20 pixels.*`example`'):
        insert_denoisers(Picky())
    insert_denoisers(Picky(), example=torch.zeros(1, 3, 20, 20))


def test_probing_leaves_the_model_as_it_was():
    model = ToyBackbone()
    model.train()
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    insert_denoisers(model)
    assert model.training and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(state['bn.' + k], v) for k, v in model.bn.state_dict().items())


def test_inserting_twice_and_fusing_nothing_are_refused():
    model = insert_denoisers(ToyBackbone())
    with pytest.raises(ValueError, match='already'):
        insert_denoisers(model)
    fuse_denoisers(model)
    with pytest.raises(ValueError, match='no denoisers'):
        fuse_denoisers(model)


def test_fused_is_stock_again():
    stock, x = ToyBackbone().eval(), torch.randn(2, 3, 12, 12)
    model = randomize(insert_denoisers(copy.deepcopy(stock)))
    expected = model(x)
    assert not torch.allclose(expected, stock(x), atol=1e-4)
    fuse_denoisers(model)
    assert torch.equal(model(x), expected)
    assert [type(m) for m in model.modules()] == [type(m) for m in stock.modules()]
    assert list(model.state_dict()) == list(stock.state_dict())
    assert all(not m._forward_pre_hooks for m in model.modules())
    assert all(not m._load_state_dict_pre_hooks for m in model.modules())


def test_a_weight_that_is_not_finite_leaves_the_model_as_it_was():
    model = randomize(insert_denoisers(ToyBackbone()))
    denoisers(model)['conv2'].weight.data[0, 0, 0] = float('nan')
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"'conv2' is not finite"):
        fuse_denoisers(model)
    assert len(denoisers(model)) == 2
    assert list(model.state_dict()) == list(state)
    for key, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(7), state[key].nan_to_num(7)), key


@pytest.mark.parametrize('load', [nn.Module.load_state_dict, load_state_dict])
def test_stock_checkpoints_load_strictly(load):
    stock, model = ToyBackbone(), insert_denoisers(ToyBackbone())
    load(model, stock.state_dict(), strict=True)
    assert torch.equal(fuse_denoisers(model).conv1.weight, stock.conv1.weight)


@pytest.mark.parametrize('load', [nn.Module.load_state_dict, load_state_dict])
def test_a_denoiser_missing_from_a_denoiserep_checkpoint_is_reported(load):
    model = insert_denoisers(ToyBackbone())
    state = model.state_dict()
    del state['conv2.parametrizations.weight.0.weight']
    with pytest.raises(RuntimeError, match=r'conv2\.parametrizations\.weight\.0\.weight'):
        load(model, state, strict=True)


def test_own_checkpoints_load_strictly():
    model, other = randomize(insert_denoisers(ToyBackbone())), insert_denoisers(ToyBackbone())
    load_state_dict(other, model.state_dict(), strict=True)
    x = torch.randn(1, 3, 12, 12)
    model.eval()
    other.eval()
    assert torch.equal(model(x), other(x))


def test_a_denoiserep_checkpoint_does_not_load_into_the_stock_model():
    state = insert_denoisers(ToyBackbone()).state_dict()
    with pytest.raises(RuntimeError, match=r'conv1\.weight'):
        load_state_dict(ToyBackbone(), state, strict=True)


def test_copies_are_independent():
    """EMA copies models: fusing one must not break the other."""
    model = randomize(insert_denoisers(ToyBackbone().eval()))
    x = torch.randn(1, 3, 12, 12)
    expected = model(x)
    twin = copy.deepcopy(model)
    fuse_denoisers(model)
    assert torch.equal(twin(x), expected) and len(denoisers(twin)) == 2
    fuse_denoisers(twin)
    assert torch.equal(twin(x), expected)


def test_without_denoisers_keeps_parameters_and_restores():
    model = randomize(insert_denoisers(ToyBackbone().eval()))
    x = torch.randn(1, 3, 12, 12)
    before, weight = model(x), model.conv1.parametrizations.weight.original
    with without_denoisers(model) as found:
        assert list(found) == ['conv1', 'conv2'] and model.conv1.weight is weight
        assert not torch.equal(model(x), before)
    assert torch.equal(model(x), before)
    assert model.conv1.parametrizations.weight.original is weight


def test_noise_losses_have_a_graph_to_the_denoisers_only():
    model = insert_denoisers(ToyBackbone())
    found = denoisers(model)
    with record_noise_losses(found) as losses, torch.no_grad():
        model(torch.randn(2, 3, 12, 12))
    assert list(losses) == ['conv1', 'conv2']
    sum(losses.values()).backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {f'{name}.parametrizations.weight.0.weight' for name in found}
    with torch.no_grad():
        model(torch.randn(2, 3, 12, 12))  # outside the context nothing is recorded
    assert list(losses) == ['conv1', 'conv2']
    assert all(d.observers == () for d in found.values())


def test_seeded_noise_losses_leave_the_global_generator_alone():
    model = insert_denoisers(ToyBackbone())

    def losses(size: int, seed: int = 3) -> dict:
        torch.manual_seed(size)
        state = torch.get_rng_state()
        with record_noise_losses(denoisers(model), max_tokens=5, seed=seed) as found:
            model.eval()
            model(torch.ones(1, 3, size, size))
        assert torch.equal(torch.get_rng_state(), state)
        return {name: loss.item() for name, loss in found.items()}

    # W_D = 0, so the loss is the noise alone: a rank with a larger image draws the same.
    assert losses(12) == losses(24) != losses(12, seed=4)


def test_pretrained_of_a_segmentor_reaches_the_stock_backbone():
    model = MODELS.build(dict(type='ToyModel', backbone=denoiserep_backbone(), pretrained='x.pth'))
    assert model.backbone.pretrained == 'x.pth' and len(denoisers(model)) == 2
