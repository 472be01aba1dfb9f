"""Every config in configs/: it builds at full size and takes and gives stock checkpoints."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmdenoiserep import denoisers, fuse_denoisers, to_stock_config
from mmdenoiserep.cli import load_config

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

CONFIGS = sorted((Path(__file__).parent.parent / 'configs').glob('*_denoiserep.py'))


def build(config: Config) -> nn.Module:
    # A copy: DETR's head changes the config that it is built from.
    return MODELS.build(Config(config.to_dict()).model)


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_row(path):
    config = load_config(str(path))
    init_default_scope(config.default_scope)
    stock, model = build(to_stock_config(config)), build(config)

    found = denoisers(model)
    assert [d.step for d in found.values()] == list(range(len(found), 0, -1))

    report = model.load_state_dict(stock.state_dict(), strict=False)
    # Besides the denoisers', only what MMPretrain's SwinV2 drops from every checkpoint.
    missing = [key for key in report.missing_keys if '.parametrizations.weight.0.' not in key]
    assert all('relative_' in key for key in missing) and not report.unexpected_keys

    for denoiser in found.values():
        nn.init.normal_(denoiser.weight, std=0.01)
    fused = fuse_denoisers(model).state_dict()
    before = stock.state_dict()
    assert list(fused) == list(before)
    changed = {key for key in fused if not torch.equal(fused[key], before[key])}
    assert changed == {f'{name}.weight' for name in found}
