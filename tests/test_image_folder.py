"""tools/calibrate.py on a folder of real image files."""

import numpy as np
import pytest
import torch
from crafted import run_tool
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATASETS, init_default_scope

pytest.importorskip('mmpretrain')
cv2 = pytest.importorskip('cv2')

CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmpretrain.models', 'mmpretrain.datasets'])
arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='VisionTransformer', arch=arch, img_size=32, patch_size=16),
    head=dict(type='VisionTransformerClsHead', num_classes=2, in_channels=16),
)
data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True, num_classes=2)
test_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset',
        data_root='none',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(32, 32)),
            dict(type='PackInputs'),
        ],
    ),
)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'config.py').write_text(CONFIG)
    images = tmp_path / 'images'
    (images / 'deeper').mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, shape in (
        ('colour.jpg', (40, 50, 3)),
        ('grey.png', (33, 20)),
        ('alpha.png', (20, 20, 4)),
        ('deeper/one_pixel.PNG', (1, 1, 3)),
    ):
        pixels = random.integers(256, size=shape, dtype=np.uint8)
        data = cv2.imencode(name[-4:].lower(), pixels)[1].tobytes()
        (images / name).write_bytes(data)
    (images / 'notes.txt').write_text('no image')
    return tmp_path


@pytest.fixture
def tool(folder, monkeypatch, capsys):
    from mmdenoiserep.cli import load_config
    from mmdenoiserep.stock.model import build_model

    model = build_model(load_config('config.py'))
    torch.save(dict(meta={}, state_dict=model.state_dict()), 'stock.pth')
    return lambda *args: run_tool(
        'calibrate', 'config.py', 'stock.pth', *args, capsys=capsys, monkeypatch=monkeypatch
    )


def test_calibration_on_a_folder(tool, folder):
    done = tool('fused.pth', '--images', 'images', '--fuse')
    assert done.code == 0, done.lines
    stock, fused = (torch.load(p)['state_dict'] for p in ('stock.pth', 'fused.pth'))
    changed = {key for key in stock if not torch.equal(stock[key], fused[key])}
    assert changed and all('.ffn.' in key for key in changed)


def test_the_data_set_lists_images_only(folder):
    init_default_scope('mmpretrain')
    found = DATASETS.build(dict(type='mmdenoiserep.ImageFolder', folder='images', pipeline=[]))
    names = [item['img_path'] for item in found]
    assert names == sorted(names) and len(names) == 4
    assert [item['img_id'] for item in found] == [0, 1, 2, 3]


def test_mmdetection_groups_its_images_by_shape(folder):
    """By the sampler of its stock configs, which asks for their sizes."""
    samplers = pytest.importorskip('mmdet.datasets.samplers')
    init_default_scope('mmpretrain')
    found = DATASETS.build(dict(type='mmdenoiserep.ImageFolder', folder='images', pipeline=[]))
    sizes = [(item['width'], item['height']) for item in found]
    assert sizes == [(20, 20), (50, 40), (1, 1), (20, 33)]
    batches = samplers.AspectRatioBatchSampler(DefaultSampler(found, shuffle=False), batch_size=3)
    assert list(batches) == [[0, 1, 2], [3]]


def test_folders_that_cannot_be_used(tool, folder):
    (folder / 'empty').mkdir()
    done = tool('out.pth', '--images', 'empty')
    assert done.code == 1 and 'there is no image in empty' in done.last
    (folder / 'images' / 'broken.jpg').write_bytes(b'no image')
    done = tool('out.pth', '--images', 'images')
    assert done.code == 1 and 'broken.jpg' in done.last, done.lines
    assert not list(folder.glob('out*'))
