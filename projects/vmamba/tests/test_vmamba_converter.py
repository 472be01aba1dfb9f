"""The converter, on files of the published layout."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from published_vmamba import PUBLISHED, shapes, state_dict
from torch.nn import functional as F

from projects.vmamba.vmamba import VMamba, converter

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / 'projects' / 'vmamba' / 'configs'


@pytest.fixture(scope='module')
def published():
    torch.manual_seed(0)
    return state_dict('tiny')


def meta(name: str) -> dict:
    return {key: torch.empty(shape, device='meta') for key, shape in shapes(name).items()}


def build_classifier() -> torch.nn.Module:
    pytest.importorskip('mmpretrain')
    config = Config.fromfile(str(CONFIGS / 'vmamba-tiny_8xb128_in1k.py'))
    init_default_scope('mmpretrain')
    return MODELS.build(config.model).eval()


def test_a_converted_file_is_the_published_classifier(published, tmp_path):
    source, target = tmp_path / 'published.pth', tmp_path / 'new' / 'vmamba-tiny.pth'
    torch.save({'model': published, 'epoch': 264, 'max_accuracy': 82.6}, source)
    command = [sys.executable, '-m', 'projects.vmamba.vmamba.converter', source, target]
    done = subprocess.run(command, cwd=ROOT, stdout=-1, stderr=-1, text=True)
    assert done.returncode == 0, done.stderr
    assert "276 tensors of VMamba(arch='tiny'), 1000 classes" in done.stdout
    assert done.stdout.rstrip().endswith('dropped from the file: epoch, max_accuracy')

    model = build_classifier()
    load_checkpoint(model, str(target), strict=True)
    images = torch.randn(2, 3, 64, 64)
    features = {}
    model.backbone.layers[3].blocks[-1].register_forward_hook(
        lambda module, args, out: features.update(last=out)
    )
    with torch.no_grad():
        logits = model(images)
    # As published: the norm at every pixel, then the mean over pixels, then the head.
    state = {key.replace('classifier.', ''): value for key, value in published.items()}
    normed = F.layer_norm(features['last'], (768,), state['norm.weight'], state['norm.bias'])
    expected = F.linear(normed.mean((1, 2)), state['head.weight'], state['head.bias'])
    torch.testing.assert_close(logits, expected)

    # Every other tensor is where the published code has it.
    backbone = VMamba('tiny')
    rest = {k: v for k, v in published.items() if not k.startswith('classifier.')}
    report = backbone.load_state_dict(rest, strict=False)
    assert report.missing_keys == ['outnorm3.weight', 'outnorm3.bias']
    assert not report.unexpected_keys
    for key, value in rest.items():
        assert torch.equal(model.backbone.state_dict()[key], value), key


def test_a_detector_starts_from_a_converted_file(published, tmp_path):
    source, target = str(tmp_path / 'published.pth'), str(tmp_path / 'vmamba-tiny.pth')
    torch.save({'model': published}, source)
    assert converter.convert_file(source, target)[1] == 'dropped from the file: nothing'
    init_cfg = dict(type='Pretrained', checkpoint=target, prefix='backbone.')
    backbone = VMamba('tiny', out_indices=(0, 1, 2, 3), init_cfg=init_cfg)
    backbone.init_weights()
    state = backbone.state_dict()
    for key, value in published.items():
        if key.startswith(('patch_embed.', 'layers.')):
            assert torch.equal(state[key], value), key
    assert torch.equal(state['outnorm3.weight'], published['classifier.norm.weight'])
    assert (state['outnorm0.weight'] == 1).all()  # the published files have no norm for it


@pytest.mark.parametrize('name', PUBLISHED)
def test_every_published_model_is_recognized(name):
    state, arch, classes = converter.convert(meta(name))
    assert (arch, classes) == (name, 1000)
    assert len(state) == len(shapes(name))
    assert {key.split('.')[0] for key in state} == {'backbone', 'head'}


def drop(key):
    return lambda state: state.pop(key)


def put(key, *shape):
    return lambda state: state.update({key: torch.zeros(shape, device='meta')})


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (drop('layers.0.blocks.1.op.Ds'), r"missing 'layers\.0\.blocks\.1\.op\.Ds', unexpected no"),
        (drop('classifier.norm.weight'), "missing 'classifier.norm.weight'"),
        (drop('classifier.head.weight'), "'classifier.head.weight' is missing"),
        (put('layers.0.blocks.1.op.x_proj.weight', 32, 96), 'unexpected .*x_proj.weight'),
        (put('layers.2.blocks.3.op.A_logs', 384, 16), r'A_logs.* is \(384, 16\), but \(1536, 1\)'),
        (put('classifier.head.bias', 999), r'\(999,\), but \(1000,\)'),
        (put('classifier.head.weight'), 'a single number'),
        (put('layers.0.blocks.0.ln_1.weight', 96), r'ln_1.* first version'),
        (put('patch_embed.proj.weight', 96, 3, 4, 4), 'first version'),
        (put('norm.weight', 768), "'norm.weight' is a name of VMamba's first version"),
        (put('layers.0.blocks.0.op.in_proj.weight', 100, 96), 'no VMamba known here has 96 ch'),
        (put('layers.0.blocks.0.op.in_proj.weight', 96, 96, 1, 1), r'not \(D, C\)'),
        (put('layers.4.blocks.0.norm.weight', 9), r'blocks \(2, 2, 8, 2, 1\)'),
        (lambda state: state.update(epoch=3), "'epoch' is no tensor but a int"),
        (lambda state: state.clear(), 'not a published VMamba classifier'),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused(change, message):
    state = meta('tiny')
    change(state)
    with pytest.raises(converter.ConversionError, match=message) as caught:
        converter.convert(state)
    assert '\n' not in str(caught.value)


class TrainingConfig:
    """What a training script may have saved beside the weights."""


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'state_dict': {}}, 'MMEngine checkpoint already'),
        ({'weights': {}}, "it has no 'model'"),
        ({'model': torch.zeros(1)}, 'no state dict'),
        ([1, 2], 'no dict but a list'),
        ({'model': {}, 'config': TrainingConfig()}, 'more than tensors'),
        (b'no checkpoint', 'cannot be read|no checkpoint'),
        (None, 'cannot be read'),
    ],
)
def test_a_file_that_does_not_fit_is_refused(content, message, tmp_path, monkeypatch):
    source, target = tmp_path / 'source.pth', tmp_path / 'target.pth'
    if isinstance(content, bytes):
        source.write_bytes(content)
    elif content is not None:
        torch.save(content, source)
    monkeypatch.setattr(sys, 'argv', ['converter', str(source), str(target)])
    with pytest.raises(SystemExit, match=f'^error: .*({message})') as caught:
        converter.main()
    assert '\n' not in str(caught.value)
    assert not target.exists()


def test_the_source_is_not_overwritten(tmp_path):
    source = tmp_path / 'a.pth'
    torch.save({'model': {}}, source)
    with pytest.raises(converter.ConversionError, match='overwrite'):
        converter.convert_file(str(source), str(tmp_path / 'x' / '..' / 'a.pth'))


def test_a_target_is_complete_or_absent(tmp_path, monkeypatch):
    source, target = tmp_path / 'source.pth', tmp_path / 'target.pth'
    torch.save({'model': {k: torch.zeros(()).expand(s) for k, s in shapes('tiny').items()}}, source)
    target.write_text('before')

    def fail(checkpoint, file):
        file.write(b'half')
        raise OSError('no space left')

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(OSError, match='no space left'):
        converter.convert_file(str(source), str(target))
    assert target.read_text() == 'before'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['source.pth', 'target.pth']
