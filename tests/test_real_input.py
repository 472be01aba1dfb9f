"""The tools on real images, by --cfg-options alone."""

import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from real import BASELINE, CAMVID, COCO, CONFIG, ROOT, needs_coco

from mmdenoiserep.cli import load_config

ANNOTATIONS = 'annotations/instances_train2017.json'
# Small images, few of them and few proposals, for a CPU.
OPTIONS = [
    'load_from=None',
    'train_dataloader.dataset.indices=8',
    'train_dataloader.dataset.pipeline.2.scale=(224,128)',
    'train_cfg.max_epochs=1',
    'train_cfg.val_begin=2',  # later than the end: no validation
    'custom_hooks.0.log_interval=2',
    'default_hooks.logger.interval=2',
    'optim_wrapper.optimizer.lr=0.01',
]
DATA_OPTIONS = [
    f'{loader}_dataloader.dataset.{key}={value}'
    for loader in ('train', 'val', 'test')
    for key, value in (
        ('data_root', f'{COCO}/'),
        ('ann_file', ANNOTATIONS),
        ('data_prefix.img', 'train2017/'),
    )
] + [f'{part}_evaluator.ann_file={COCO / ANNOTATIONS}' for part in ('val', 'test')]
TEST_OPTIONS = [
    'test_dataloader.dataset.indices=16',
    'test_dataloader.dataset.pipeline.1.scale=(224,128)',
    'model.test_cfg.rpn.nms_pre=200',
    'model.test_cfg.rpn.max_per_img=50',
    # Nothing is learned from eight images: take every detection.
    'model.test_cfg.rcnn.score_thr=0.0',
    'model.test_cfg.rcnn.max_per_img=20',
]


def tool(name: str, *args) -> str:
    command = [sys.executable, f'tools/{name}.py', *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def coco_numbers(output: str) -> list:
    return re.findall(r'Average (?:Precision|Recall).*= (-?\d\.\d{3})', output)


@pytest.mark.slow
@needs_coco
def test_train_test_fuse_and_test_with_the_stock_config(tmp_path):
    no_weights = 'model.backbone.module.init_cfg=None'
    tool(
        'train',
        CONFIG,
        '--work-dir',
        tmp_path,
        '--cfg-options',
        *OPTIONS,
        *DATA_OPTIONS,
        no_weights,
    )
    (tmp_path / 'fused.pth').unlink()  # the hook's; here the tool makes it
    (tmp_path / 'fused.py').unlink()

    outputs, predictions = [], []
    fused = tmp_path / 'deploy' / 'fused.pth'
    pictures = tmp_path / 'pictures'
    for config, checkpoint in ((CONFIG, tmp_path / 'epoch_1.pth'), (BASELINE, fused)):
        if checkpoint == fused:
            tool('fuse_ckpt', CONFIG, tmp_path / 'epoch_1.pth', fused)
        out = tmp_path / f'{len(outputs)}.pkl'
        outputs.append(
            tool(
                *('test', config, checkpoint, '--work-dir', tmp_path / 'test', '--out', out),
                *('--show-dir', pictures, '--cfg-options', *DATA_OPTIONS, *TEST_OPTIONS),
            )
        )
        predictions.append(pickle.loads(out.read_bytes()))

    numbers = [coco_numbers(output) for output in outputs]
    assert len(numbers[0]) == 24  # COCO's twelve for boxes and twelve for masks
    assert numbers[0] == numbers[1]
    assert len(list(pictures.rglob('*.jpg'))) == 16
    for unfused, stock in zip(*predictions):
        unfused, stock = unfused['pred_instances'], stock['pred_instances']
        assert len(unfused['scores']) == 20
        assert np.allclose(unfused['bboxes'], stock['bboxes'], rtol=0, atol=1e-4)
        assert np.allclose(unfused['scores'], stock['scores'], rtol=0, atol=1e-4)


SEGFORMER = 'configs/segformer_mit-b0_denoiserep.py'
CLASSES = 'sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,cyclist'
CAMVID_OPTIONS = [
    'model.decode_head.num_classes=11',
    *(
        f'test_dataloader.dataset.{option}'
        for option in (
            'type=BaseSegDataset',
            f'data_root={CAMVID}/',
            'data_prefix.img_path=images/val',
            'data_prefix.seg_map_path=annotations/val',
            f'metainfo.classes=({CLASSES})',
            'pipeline.1.scale=(480,360)',
            'pipeline.2.reduce_zero_label=False',
        )
    ),
    'test_evaluator.ignore_index=11',
]


@pytest.mark.slow
@pytest.mark.skipif(not CAMVID.is_dir(), reason=f'no images in {CAMVID}')
def test_segmentation_reports_boundary_iou_and_draws_label_maps(tmp_path):
    config = load_config(str(ROOT / SEGFORMER))
    config.model.decode_head.num_classes = 11
    init_default_scope('mmseg')
    torch.manual_seed(0)
    state = MODELS.build(config.model).state_dict()
    torch.save(dict(state_dict=state), tmp_path / 'iter_1.pth')
    output = tool(
        *('test', SEGFORMER, tmp_path / 'iter_1.pth', '--work-dir', tmp_path),
        *('--show-dir', tmp_path / 'pictures', '--cfg-options', *CAMVID_OPTIONS),
        'test_dataloader.dataset.indices=20',
    )
    last = output.strip().splitlines()[-1]
    values = {k: float(v) for k, v in re.findall(r'([\w-]+): (\d+\.\d+)', last)}
    assert {'aAcc', 'mIoU', 'mAcc', 'B-IoU'} <= values.keys()
    assert all(0 < values[key] < 50 for key in ('aAcc', 'mIoU', 'B-IoU'))  # at random
    assert all(name in output for name in CLASSES.split(','))  # in the table of classes
    pictures = list((tmp_path / 'pictures').rglob('*.png'))
    assert len(pictures) == 20
