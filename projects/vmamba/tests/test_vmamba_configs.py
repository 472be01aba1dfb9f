"""The configs, and what the project needs of other packages."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')

ROOT = Path(__file__).parents[3]
PROJECT = ROOT / 'projects' / 'vmamba'
#: Each row's baseline, and the baseline's parameters with its head.
ROWS = {
    'vmamba-tiny_denoiserep': ('vmamba-tiny_8xb128_in1k', 30_249_064),
    'vmamba-small_denoiserep': ('vmamba-small_8xb128_in1k', 50_147_752),
    'vmamba-base_denoiserep': ('vmamba-base_8xb128_in1k', 88_557_800),
    'mask-rcnn_vmamba-t_denoiserep': ('mask-rcnn_vmamba-t_fpn_1x_coco', 49_755_312),
}


def load(name: str) -> Config:
    return Config.fromfile(str(PROJECT / 'configs' / f'{name}.py'))


def build(name: str) -> torch.nn.Module:
    config = load(name)
    init_default_scope(config.default_scope)
    with torch.device('meta'):
        return MODELS.build(config.model)


def test_every_config_is_a_row_or_a_baseline():
    names = {path.stem for path in (PROJECT / 'configs').glob('*.py')}
    assert names == {*ROWS, *(baseline for baseline, _ in ROWS.values())}


@pytest.mark.parametrize('name', ROWS)
def test_a_row_is_its_baseline_with_a_wrapped_backbone(name):
    row, baseline = load(name), load(ROWS[name][0])
    assert len((PROJECT / 'configs' / f'{name}.py').read_text().splitlines()) <= 10
    wrapper = row.model.backbone
    assert wrapper.type == 'mmdenoiserep.DenoiseRepBackbone'
    baseline.model.backbone.pop('init_cfg', None)  # of the classifier: `load_from` has all weights
    assert wrapper.module == baseline.model.backbone
    row.model.backbone = wrapper.module
    for key in ('model', 'optim_wrapper', 'train_dataloader', 'default_hooks', 'custom_imports'):
        assert row[key] == baseline[key], key
    assert row.load_from and row.custom_hooks and 'custom_hooks' not in baseline


@pytest.mark.parametrize(('name', 'parameters'), ROWS.values(), ids=ROWS)
def test_a_baseline_builds(name, parameters):
    assert sum(p.numel() for p in build(name).parameters()) == parameters


def test_weight_decay_is_the_published_codes():
    """None for parameters of one dimension; that leaves the scan's A and the bias of its steps."""
    config = load('vmamba-tiny_8xb128_in1k')
    config.optim_wrapper.type = 'OptimWrapper'
    model = build('vmamba-tiny_8xb128_in1k')
    groups = build_optim_wrapper(model, config.optim_wrapper).optimizer.param_groups
    decay = {id(p): group['weight_decay'] for group in groups for p in group['params']}
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.05 if parameter.ndim > 1 else 0), name


def test_a_training_step_of_the_classifier():
    config = load('vmamba-tiny_8xb128_in1k')
    config.model.backbone.update(
        arch=dict(embed_dims=16, depths=(1, 1, 1, 1), ssm_ratio=1), drop_path_rate=0.1
    )
    config.model.head.in_channels = 128
    config.model.data_preprocessor = config.data_preprocessor  # as the Runner does
    init_default_scope('mmpretrain')
    model = MODELS.build(config.model)
    model.init_weights()
    DataSample = pytest.importorskip('mmpretrain.structures').DataSample
    samples = [DataSample().set_gt_label(i) for i in range(4)]
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in samples]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_the_metafile_names_what_there_is():
    content = yaml.safe_load((PROJECT / 'metafile.yml').read_text())
    collections = {collection['Name'] for collection in content['Collections']}
    models = {model['Name']: model for model in content['Models']}
    assert len(models) == len(content['Models'])
    configs = sorted((PROJECT / 'configs').glob('*.py'))
    assert {ROOT / model['Config'] for model in models.values()} == set(configs)
    for name, model in models.items():
        assert model['In Collection'] in collections
        assert model['Config'].endswith(f'/{name}.py')
    for row, (baseline, _) in ROWS.items():
        assert 'Weights' not in models[row] and 'Weights' in models[baseline]


def test_torch_and_mmengine_are_enough():
    code = """
import sys
import projects.vmamba.vmamba, projects.vmamba.vmamba.converter
loaded = {name.split('.')[0] for name in sys.modules}
others = {'mmdenoiserep', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'mamba_ssm', 'timm', 'einops'}
assert not loaded & others, loaded & others
"""
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
    for path in PROJECT.rglob('*.py'):
        if path.parent.name != 'tests' and not path.stem.endswith('_denoiserep'):
            assert 'mmdenoiserep' not in path.read_text(), path
