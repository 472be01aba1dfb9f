"""tools/fuse_ckpt.py: what it writes, and what it refuses without leaving anything behind."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn
from toy import ToyBackbone, denoiserep_backbone, stock_backbone, toy_config

from mmdenoiserep import denoisers, fuse_checkpoint, to_stock_config
from mmdenoiserep.apis import fuse as fusion_module
from mmdenoiserep.stock.files import atomic_write
from tools import tool


@pytest.fixture
def config(tmp_path) -> Config:
    return toy_config(tmp_path)


@pytest.fixture
def model(config) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    for denoiser in denoisers(model).values():
        nn.init.normal_(denoiser.weight)
    return model.eval()


@pytest.fixture
def checkpoint(model, tmp_path) -> str:
    return save(model.state_dict(), tmp_path / 'epoch_1.pth')


def save(state: dict, path: Path) -> str:
    torch.save(dict(meta=dict(dataset_meta=dict(classes=['a', 'b'])), state_dict=state), path)
    return str(path)


def refused(config, checkpoint: str, out: Path, message: str) -> None:
    before = sorted(out.parent.iterdir())
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        fuse_checkpoint(config, checkpoint, str(out))
    assert '\n' not in str(error.value)
    assert sorted(out.parent.iterdir()) == before


def test_writes_the_stock_checkpoint_and_config(config, model, checkpoint, tmp_path):
    out = tmp_path / 'deploy' / 'fused.pth'
    report = fuse_checkpoint(config, checkpoint, str(out))
    assert report.num_denoisers == 2 and report.max_difference < 1e-5
    written = torch.load(out, weights_only=True)
    assert written['meta']['dataset_meta'] == dict(classes=['a', 'b'])
    stock_config = Config.fromfile(report.config)
    assert stock_config.model.backbone == stock_backbone()
    stock = MODELS.build(stock_config.model).eval()
    stock.load_state_dict(written['state_dict'], strict=True)
    assert list(written['state_dict']) == list(stock.state_dict())
    x = torch.randn(3, 3, 12, 12)
    assert torch.equal(stock(x), model(x))


def test_strength_lies_between_the_stock_weights_and_what_was_learned(config, checkpoint, tmp_path):
    states = {}
    for strength in (0.0, 0.25, 1.0):
        out = tmp_path / f'{strength}.pth'
        report = fuse_checkpoint(config, checkpoint, str(out), strength=strength)
        assert report.max_difference < 1e-5
        states[strength] = torch.load(out, weights_only=True)['state_dict']
    learned = torch.load(checkpoint, weights_only=True)['state_dict']
    for key, value in learned.items():
        if key.endswith('parametrizations.weight.original'):
            name = key.replace('parametrizations.weight.original', 'weight')
            none, some, all_ = (states[strength][name] for strength in (0.0, 0.25, 1.0))
            assert torch.equal(none, value)
            torch.testing.assert_close(some, none + 0.25 * (all_ - none), rtol=0, atol=1e-6)
            assert not torch.equal(all_, none)
    with pytest.raises(ValueError, match=r'strength must be in \[0, 1\], got 1.5'):
        fuse_checkpoint(config, checkpoint, str(tmp_path / 'no.pth'), strength=1.5)
    assert not (tmp_path / 'no.pth').exists()


def test_fusing_twice_writes_the_same_bytes(config, checkpoint, tmp_path):
    for name in ('a', 'b'):
        fuse_checkpoint(config, checkpoint, str(tmp_path / f'{name}.pth'))
    assert (tmp_path / 'a.pth').read_bytes() == (tmp_path / 'b.pth').read_bytes()
    assert (tmp_path / 'a.py').read_bytes() == (tmp_path / 'b.py').read_bytes()


def test_checkpoints_of_version_0_1_give_the_same_weights(config, tmp_path):
    """Two files that version 0.1.0 wrote: a DenoiseRep checkpoint and what it fused it into."""
    data = Path(__file__).parent / 'data'
    out = tmp_path / 'fused.pth'
    fuse_checkpoint(config, str(data / 'toy_denoiserep_0.1.pth'), str(out))
    state, before = (
        torch.load(p, weights_only=True)['state_dict'] for p in (out, data / 'toy_fused_0.1.pth')
    )
    assert list(state) == list(before) and state._metadata == before._metadata
    for key, value in before.items():
        # Processors differ in the order of a product's sums, and so in its last bits.
        torch.testing.assert_close(state[key], value, rtol=1e-6, atol=1e-7)
    refused(config, str(data / 'toy_fused_0.1.pth'), tmp_path / 'twice.pth', 'fused already')


def test_weights_from_distributed_training_are_taken(config, model, tmp_path):
    state = OrderedDict((f'module.{key}', value) for key, value in model.state_dict().items())
    path = save(state, tmp_path / 'ddp.pth')
    assert fuse_checkpoint(config, path, str(tmp_path / 'fused.pth')).num_denoisers == 2


def test_nan_is_refused(config, model, tmp_path):
    denoisers(model)['backbone.conv1'].weight.data[0, 0, 0] = float('inf')
    path = save(model.state_dict(), tmp_path / 'nan.pth')
    refused(config, path, tmp_path / 'fused.pth', 'NaN or infinity in .*conv1')


def test_overflow_in_the_fused_weight_is_refused(config, model, tmp_path):
    denoisers(model)['backbone.conv1'].weight.data.fill_(1e38)
    model.backbone.conv1.parametrizations.weight.original.data.fill_(1e10)
    path = save(model.state_dict(), tmp_path / 'big.pth')
    with pytest.raises(ValueError, match='not finite'):
        fuse_checkpoint(config, path, str(tmp_path / 'fused.pth'), check=False)


def test_a_stock_checkpoint_is_refused(config, tmp_path):
    stock = MODELS.build(to_stock_config(config).model)
    path = save(stock.state_dict(), tmp_path / 'stock.pth')
    refused(config, path, tmp_path / 'fused.pth', 'no denoisers')


def test_a_fused_checkpoint_is_refused(config, checkpoint, tmp_path):
    fuse_checkpoint(config, checkpoint, str(tmp_path / 'fused.pth'))
    refused(config, str(tmp_path / 'fused.pth'), tmp_path / 'twice.pth', 'fused already')


def test_a_fused_checkpoint_is_not_denoised_twice_by_any_way_of_loading(
    config, checkpoint, tmp_path
):
    from mmengine.runner import load_checkpoint

    out = str(tmp_path / 'fused.pth')
    fuse_checkpoint(config, checkpoint, out)
    with pytest.raises(RuntimeError, match='stock config'):
        load_checkpoint(MODELS.build(config.model), out)
    with pytest.raises(RuntimeError, match='stock config'):
        MODELS.build(config.model).load_state_dict(torch.load(out)['state_dict'], strict=False)
    config.model.backbone.module.init_cfg = dict(
        type='Pretrained', checkpoint=out, prefix='backbone.'
    )
    with pytest.raises(RuntimeError, match='stock config'):
        MODELS.build(config.model).init_weights()


def test_configs_that_do_not_match_are_refused(config, checkpoint, tmp_path):
    out = tmp_path / 'fused.pth'
    refused(toy_config(tmp_path, stock_backbone()), checkpoint, out, 'DenoiseRepBackbone')
    wider = toy_config(tmp_path, denoiserep_backbone(width=12))
    refused(wider, checkpoint, out, 'does not match the config: .*size mismatch')
    fewer = denoiserep_backbone()
    fewer['targets'] = ['conv2']
    refused(toy_config(tmp_path, fewer), checkpoint, out, 'does not match the config')
    other = denoiserep_backbone()
    other['schedule'] = dict(num_steps=100)
    refused(toy_config(tmp_path, other), checkpoint, out, 'was trained with')


def test_damaged_and_foreign_files_are_refused(config, tmp_path):
    out = tmp_path / 'fused.pth'
    refused(config, str(tmp_path / 'none.pth'), out, 'there is no checkpoint')
    damaged = tmp_path / 'damaged.pth'
    damaged.write_bytes(b'not a checkpoint')
    refused(config, str(damaged), out, 'cannot be loaded as weights only')
    bare = tmp_path / 'bare.pth'
    torch.save(torch.zeros(2), bare)
    refused(config, str(bare), out, "no 'state_dict'")


def test_a_wrong_fusion_is_caught_by_the_check(config, checkpoint, tmp_path, monkeypatch):
    def wrong(model):
        fused = fuse(model)
        fused.backbone.conv2.weight.data *= 1.01
        return fused

    fuse = fusion_module.fuse_denoisers
    monkeypatch.setattr(fusion_module, 'fuse_denoisers', wrong)
    refused(config, checkpoint, tmp_path / 'fused.pth', 'explicitly denoised')


@MODELS.register_module()
class OfOneSize(ToyBackbone):
    """Takes 40×40 pixels, and none of the sizes that are tried."""

    def forward(self, x):
        assert x.shape[2:] == (40, 40)
        return super().forward(x)


def test_the_check_runs_on_the_example_that_the_config_gives(config, tmp_path):
    config.model.backbone.module.type = 'OfOneSize'
    config.model.backbone.example_shape = (1, 3, 40, 40)
    model = MODELS.build(config.model).eval()
    for denoiser in denoisers(model).values():
        torch.nn.init.normal_(denoiser.weight)
    report = fusion_module.fuse_model(config, model, str(tmp_path / 'fused.pth'))
    assert report.max_difference < 1e-5


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 'file.pth'
    path.write_bytes(b'old')
    with pytest.raises(KeyboardInterrupt), atomic_write(str(path)) as file:
        file.write(b'new')
        raise KeyboardInterrupt
    assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]


def test_the_output_may_not_replace_the_input(config, checkpoint, tmp_path):
    refused(config, checkpoint, Path(checkpoint), 'give another name')
    refused(config, checkpoint, tmp_path / 'fused.pt', r'\*\.pth')


def test_to_stock_config_leaves_nothing_of_denoiserep(config):
    config.custom_hooks.append(dict(type='EMAHook'))
    config.custom_imports = dict(imports=['mmdenoiserep', 'toy'])
    stock = to_stock_config(config)
    assert stock.custom_hooks == [dict(type='EMAHook')]
    assert stock.custom_imports == dict(imports=['toy'])
    config.custom_imports = dict(imports='mmdenoiserep')
    assert 'custom_imports' not in to_stock_config(config)
    assert 'enoiserep' not in stock.pretty_text.replace(str(config.work_dir), '').lower()


def test_the_tool_prints_one_line(config, checkpoint, tmp_path, tool_here):
    path = tmp_path / 'config.py'
    config.custom_imports = dict(imports=['toy'])
    config.dump(path)
    out = tmp_path / 'fused.pth'

    done = tool('fuse_ckpt', path, checkpoint, out, cwd=tmp_path)
    assert done.returncode == 0 and '2 denoisers fused' in done.stdout
    done = tool_here('fuse_ckpt', path, out, tmp_path / 'twice.pth')
    (line,) = done.lines
    assert done.code == 1 and line.startswith('fuse_ckpt: ') and 'fused already' in line
