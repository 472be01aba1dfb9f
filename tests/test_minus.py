"""DenoiseRep⁻: steps behind the backbone."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner
from toy import ToyBackbone, stock_backbone, toy_config

from mmdenoiserep import DenoiseRepMinus, NoiseSchedule
from mmdenoiserep.models.minus import FeatureDenoiser, feature_denoisers

ROOT = Path(__file__).parent.parent
X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def minus(**kwargs) -> dict:
    return dict(type='mmdenoiserep.DenoiseRepMinus', module=stock_backbone(), hidden=4, **kwargs)


def randomize(model):
    for denoiser in feature_denoisers(model).values():
        torch.nn.init.normal_(denoiser.weight)
    return model


@torch.no_grad()
def test_it_starts_at_the_stock_backbone_whose_checkpoints_load():
    stock = ToyBackbone().eval()
    model = MODELS.build(minus()).eval()
    missing, unexpected = model.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected and all(key.startswith('feature_denoisers.') for key in missing)
    assert torch.equal(model(X), stock(X))
    assert isinstance(model, ToyBackbone)


@pytest.mark.parametrize('channel_dim', [-1, -3])
@torch.no_grad()
def test_steps_by_hand(channel_dim):
    torch.manual_seed(0)
    schedule = NoiseSchedule()
    denoiser = FeatureDenoiser(6, channel_dim, 3, schedule, hidden=4)
    torch.nn.init.normal_(denoiser.weight)
    x = torch.randn(2, 6, 5, 4) if channel_dim == -3 else torch.randn(2, 5, 4, 6)
    tokens = x.movedim(channel_dim, -1)
    for t in (3, 2, 1):
        time = denoiser.time(denoiser._embedding(t))
        tokens = tokens - schedule.c1(t) * (tokens + time) @ denoiser.weight.T
    assert torch.allclose(denoiser(x).movedim(channel_dim, -1), tokens, atol=1e-5)
    assert not torch.allclose(denoiser._embedding(1), denoiser._embedding(3))


def test_levels_are_chosen_and_checked():
    class Pyramid(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return [self.conv(x), self.conv(x)[:, :2]]

    MODELS.register_module(name='MinusPyramid', module=Pyramid, force=True)
    model = DenoiseRepMinus(dict(type='MinusPyramid'), levels=[1], hidden=4)
    randomize(model)
    first, second = model(X)
    assert torch.equal(first, model.conv(X)) and not torch.equal(second, model.conv(X)[:, :2])
    assert len(DenoiseRepMinus(dict(type='MinusPyramid'), hidden=4).feature_denoisers) == 2
    with pytest.raises(ValueError, match=r'levels must be in 0\.\.1'):
        DenoiseRepMinus(dict(type='MinusPyramid'), levels=[2])
    with pytest.raises(ValueError, match='step must be in'):
        DenoiseRepMinus(dict(type='MinusPyramid'), num_steps=2000)


@torch.no_grad()
def test_a_copy_denoises_with_its_own_weights():
    model = randomize(MODELS.build(minus())).eval()
    copied = copy.deepcopy(model)
    for denoiser in feature_denoisers(model).values():
        denoiser.weight.zero_()
    assert not torch.equal(model(X), copied(X))


@pytest.mark.parametrize('mode', ['label-aug', 'label-free'])
def test_the_hook_trains_it_and_nothing_else(mode, tmp_path):
    config = toy_config(tmp_path, backbone=minus(), mode=mode)
    runner = Runner.from_cfg(config)
    before = copy.deepcopy(runner.model.state_dict())
    runner.train()
    changed = {k for k, v in runner.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if 'feature_denoisers' in k}
    assert not (tmp_path / 'fused.pth').exists()


def test_the_config_of_the_mask_rcnn_row_builds():
    pytest.importorskip('mmdet')
    pytest.importorskip('mmpretrain')
    from mmengine.registry import init_default_scope

    from mmdenoiserep.cli import load_config

    config = load_config(str(ROOT / 'configs' / 'mask-rcnn_swinv2-t_denoiserep-minus.py'))
    init_default_scope('mmdet')
    backbone = MODELS.build(config.model.backbone)
    widths = [len(d.weight) for d in feature_denoisers(backbone).values()]
    assert widths == [96, 192, 384, 768]
