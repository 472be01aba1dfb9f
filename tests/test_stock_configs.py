"""`tools/train.py STOCK_CONFIG --denoiserep` for configs that are in no table of the paper."""

import copy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from tiny import assert_same, make_small, predict

from experiments.benchmark.samples import sample
from mmdenoiserep import denoisers
from mmdenoiserep.cli import load_config

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

ROOT = Path(__file__).parent.parent
LOADER = ['batch_size=2', 'num_workers=0', 'persistent_workers=False']
# What a user of a small machine sets for any config, and no download: the weights are random.
COMMON = [f'train_dataloader.{option}' for option in LOADER] + [
    'model.backbone.module.init_cfg=None',
    'default_hooks.logger.interval=1',
    # Train only.
    *(
        f'{part}_{what}=None'
        for part in ('val', 'test')
        for what in ('dataloader', 'cfg', 'evaluator')
    ),
]
SIZE = (64, 64)


@pytest.fixture(scope='module')
def shapes(tmp_path_factory) -> Path:
    """Four annotated images in COCO's layout."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    code = f"""
from pathlib import Path
from make_shapes import make_shapes
make_shapes(Path({str(root)!r}), num_train=4, num_val=1, size=64)"""
    subprocess.run([sys.executable, '-c', code], cwd=ROOT / 'demo', check=True)
    return root


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> Path:
    """Four images and label maps in ADE20K's layout."""
    root = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    for kind in ('images', 'annotations'):
        (root / kind / 'training').mkdir(parents=True)
    for i in range(4):
        labels = rng.integers(1, 150, (8, 8), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
        image = np.stack([labels, labels.T, 255 - labels], 2)
        cv2.imwrite(str(root / 'images' / 'training' / f'{i}.jpg'), image)
        cv2.imwrite(str(root / 'annotations' / 'training' / f'{i}.png'), labels)
    return root


def detection_options(root: Path) -> list:
    return [
        f'train_dataloader.dataset.{option}'
        for option in (
            f'data_root={root}/',
            'ann_file=annotations/instances_train.json',
            'data_prefix.img=train/',
            'metainfo.classes=(circle,square,triangle)',
        )
    ] + ['train_cfg.max_epochs=1']


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'layers', 'options'),
    [
        (
            'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
            52,
            ['train_dataloader.dataset.pipeline.2.scale=(64,64)'],
        ),
        (
            'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
            37 - 4 - 1,  # all convolutions but the depthwise ones and the stem's first
            [],
        ),
        (
            'mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
            18 * 2 + 3,  # the two Linear layers of each block, and the downsampling
            [
                'train_cfg.max_iters=2',
                'model.data_preprocessor.size=(64,64)',
                'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
                'train_dataloader.dataset.pipeline.2.scale=(256,64)',
            ],
        ),
    ],
    ids=lambda value: value.split('/')[-1].split('_')[0] if '::' in str(value) else '',
)
def test_train_fuse_and_load(name, layers, options, shapes, scenes, tmp_path, stock_worker):
    torch.manual_seed(0)
    data = [f'train_dataloader.dataset.data_root={scenes}/'] if 'mmseg' in name else []
    stock = load_config(name)
    init_default_scope(stock.default_scope)
    checkpoint = tmp_path / 'stock.pth'
    torch.save(dict(state_dict=MODELS.build(stock.model).state_dict()), checkpoint)
    command = [
        *(sys.executable, 'tools/train.py', name, '--denoiserep', '--work-dir', str(tmp_path)),
        *('--cfg-options', *COMMON, *options, *(data or detection_options(shapes))),
        f'load_from={checkpoint}',
    ]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f'{layers} denoisers inserted' in done.stdout

    # What training wrote is a stock checkpoint, and predicts what the DenoiseRep model predicts.
    work = {p.name: str(p) for p in tmp_path.iterdir()}
    last = next(work[key] for key in ('epoch_1.pth', 'iter_2.pth') if key in work)
    config = load_config(next(work[key] for key in work if key.endswith('_denoiserep.py')))
    make_small(config, SIZE)
    batch = sample(config, SIZE)
    torch.save(batch, tmp_path / 'batch.pth')
    model = MODELS.build(copy.deepcopy(config.model))
    model.load_state_dict(torch.load(last, weights_only=False)['state_dict'], strict=True)
    assert all(denoiser.weight.any() for denoiser in denoisers(model).values())
    job = dict(
        config=name, batch=str(tmp_path / 'batch.pth'), predictions=str(tmp_path / 'out.pth')
    )
    assert stock_worker(**job, checkpoint=work['fused.pth'], size=SIZE, strict=True)
    assert_same(torch.load(tmp_path / 'out.pth'), predict(model, batch))


@pytest.mark.slow
def test_merged_data_trains_without_annotations(shapes, tmp_path):
    """COCO's part without its labels, and a folder of images that have none."""
    datasets = 'train_dataloader.dataset.datasets'
    options = [
        *COMMON,
        'load_from=None',
        'train_cfg.max_epochs=1',
        f'{datasets}.0.data_root={shapes}/',
        f'{datasets}.0.ann_file=annotations/instances_train.json',
        f'{datasets}.0.data_prefix.img=train/',
        f'{datasets}.0.metainfo.classes=(circle,square,triangle)',
        f'{datasets}.0.pipeline.1.scale=(64,64)',
        f'{datasets}.1.data_prefix={shapes}/val',
        f'{datasets}.1.pipeline.1.scale=(64,64)',
    ]
    config = 'configs/mask-rcnn_swinv2-t_denoiserep_merged.py'
    command = [sys.executable, 'tools/train.py', config, '--work-dir', str(tmp_path)]
    done = subprocess.run(
        [*command, '--cfg-options', *options], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'Epoch(train) [1][3/3]' in done.stdout  # four images and one, in batches of two
    assert 'label-free, 24 denoisers' in done.stdout
    meta = torch.load(tmp_path / 'fused.pth', weights_only=False)['meta']['dataset_meta']
    assert meta['classes'] == ('circle', 'square', 'triangle')
