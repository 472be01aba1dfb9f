"""What counts as a layer that can be denoised, and layers of other packages."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmdenoiserep import (
    Cascade,
    Denoiser,
    denoisers,
    fuse_denoisers,
    insert_denoisers,
    register_layer,
)
from mmdenoiserep.apis import explicit_denoising
from mmdenoiserep.network import layers


class Linear2d(nn.Linear):
    """A Linear on (N, C, H, W), as VMamba has it."""

    def forward(self, x):
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(layers, '_CHANNEL_DIMS', dict(layers._CHANNEL_DIMS))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), Linear2d(6, 4), nn.Conv2d(4, 5, 1)).eval()


def test_a_layer_with_a_forward_of_its_own_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r'Linear2d.*register_layer\(Linear2d, channel_dim=-1\)'):
        insert_denoisers(network(), targets=['1'])
    with pytest.raises(ValueError, match=r'register_layer\(Linear2d'):
        Denoiser(Linear2d(6, 4), step=1)
    assert list(denoisers(insert_denoisers(network()))) == ['2']


@torch.no_grad()
def test_a_registered_layer_is_denoised_over_its_channels(registry):
    register_layer(Linear2d, channel_dim=-3)
    model = insert_denoisers(network())
    assert list(denoisers(model)) == ['1', '2']
    for denoiser in denoisers(model).values():
        nn.init.normal_(denoiser.weight)
    x = torch.randn(2, 3, 9, 7)
    running = model(x)
    with explicit_denoising(model):
        assert torch.allclose(model(x), running, atol=1e-5)
    loss = denoisers(model)['1'].noise_loss(torch.randn(2, 6, 5, 4))
    assert torch.isfinite(loss)
    assert torch.equal(fuse_denoisers(model)(x), running)
    assert type(model[1]) is Linear2d


@torch.no_grad()
def test_padding_that_is_set_after_construction_counts():
    """MMSegmentation's MobileNetV3 does so."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, dilation=1)).eval()
    model[0].dilation, model[0].padding = (2, 2), (2, 1)
    measured = Cascade(noise='measured')
    insert_denoisers(model, ['0'], cascade=measured, reach='kernel')
    nn.init.normal_(denoisers(model)['0'].weight, std=0.1)
    x = torch.randn(2, 3, 9, 7)
    fused = model(x)
    assert layers.padding_of(model[0], 9, 7) == [1, 1, 2, 2]
    with explicit_denoising(model):
        assert torch.allclose(model(x), fused, atol=1e-5)


def test_a_subclass_that_changes_the_forward_again_is_another_layer(registry):
    register_layer(Linear2d, channel_dim=-3)

    class Squared(Linear2d):
        def forward(self, x):
            return super().forward(x).square()

    assert layers.channel_dim_of(Squared(2, 2)) is None
    assert layers.channel_dim_of(Linear2d(2, 2)) == -3


def test_only_known_places_of_channels_are_taken(registry):
    with pytest.raises(ValueError, match='-1 or -3, got 1'):
        register_layer(Linear2d, channel_dim=1)


@pytest.mark.parametrize(
    ('layer', 'message'),
    [
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), 'is computed by a weight norm'),
        (nn.Conv2d(4, 4, 3, groups=4, padding=1), 'depthwise convolution: give depthwise=True'),
    ],
)
def test_other_targets_that_cannot_be_served_say_why(layer, message):
    model = nn.Sequential(nn.Linear(4, 4), layer)
    with pytest.raises(ValueError, match=f"'1'.*{message}"):
        insert_denoisers(model, targets=['1'])
