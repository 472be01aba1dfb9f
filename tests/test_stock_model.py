"""Running the backbones of models that are not called with images alone."""

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import nn
from toy import ToyBackbone

from mmdenoiserep import (
    Cascade,
    calibrate,
    denoisers,
    fuse_denoisers,
    insert_denoisers,
    to_denoiserep_config,
)
from mmdenoiserep.apis.calibrate import calibration_device
from mmdenoiserep.apis.verify import Features, difference_to, explicit_features
from mmdenoiserep.calibration import NothingBetter, Pair, calibrate_measured
from mmdenoiserep.cli import load_config
from mmdenoiserep.stock.data import unlabelled_loader
from mmdenoiserep.stock.model import (
    as_deployed,
    build_model,
    preprocess,
    run_backbone,
    tensors_in,
)
from mmdenoiserep.training import denoising_losses, freeze_base


class WithCameras(BaseModel):
    """Its backbone adds an embedding for each camera."""

    def __init__(self):
        super().__init__()
        self.backbone = ToyBackbone()
        self.cameras = nn.Parameter(torch.arange(2.0))
        self.seen = []

    def run_backbone(self, inputs, data_samples):
        self.seen += [sample['camera'] for sample in data_samples or []]
        return self.backbone(inputs)

    def example_samples(self, count):
        return [dict(camera=i) for i in range(count)]

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.run_backbone(inputs, data_samples)


def test_data_samples_reach_a_model_that_wants_them():
    torch.manual_seed(0)
    model = WithCameras()
    insert_denoisers(model.backbone)
    batch = dict(inputs=torch.randn(3, 3, 12, 12), data_samples=[dict(camera=i) for i in range(3)])
    assert calibrate(model, [batch], num_images=2) == 2
    assert model.seen == [0, 1]
    assert all(d.weight.any() for d in denoisers(model).values())
    # The check of fusion has no batch: the model says what its backbone is to get.
    model.seen.clear()
    features = explicit_features(model.eval())
    assert model.seen and set(model.seen) == {0, 1}
    assert difference_to(features, fuse_denoisers(model)) < 1e-5
    assert model.seen[-2:] == [0, 1]


def test_the_five_dimensions_of_reid_are_flattened():
    x = torch.randn(2, 4, 3, 12, 12)
    model = nn.Module()
    model.backbone = ToyBackbone().eval()
    assert torch.equal(run_backbone(model, x), model.backbone(x.flatten(0, 1)))


def test_measured_noise_of_reids_five_dimensions():
    """An item of MMDetection's re-identification is (1, C, H, W)."""
    torch.manual_seed(0)
    model = nn.Module()
    model.backbone = insert_denoisers(
        ToyBackbone(), cascade=Cascade(noise='measured'), reach='kernel'
    )
    clean = [torch.randn(4, 1, 3, 12, 12) for _ in range(4)]
    pairs = [Pair(x, x + 0.5 * torch.randn_like(x)) for x in clean]
    try:
        calibrate_measured(model, pairs[:3], pairs[3:])
        solved = [d.weight for d in denoisers(model).values()]
    except NothingBetter as error:
        solved = list(error.solution.values())
    assert solved and all(w.isfinite().all() for w in solved) and any(w.any() for w in solved)


def test_a_difference_that_is_no_number_is_refused_at_every_level():
    levels = [torch.ones(1, 2), torch.ones(1, 2), torch.tensor([[1.0, float('nan')]])]
    backbone = nn.Module()
    backbone.forward = lambda x: levels
    features = Features(torch.ones(1, 2), None, levels)
    with pytest.raises(ValueError, match='differ by nan'):
        difference_to(features, backbone)


@pytest.mark.parametrize(('found', 'used'), [('mps', 'cpu'), ('cuda', 'cuda')])
def test_calibration_runs_where_there_is_float64(monkeypatch, found, used):
    monkeypatch.setattr('mmdenoiserep.apis.calibrate.get_device', lambda: found)
    assert calibration_device() == used


@torch.no_grad()
def test_a_plain_module_is_run_on_its_batches():
    model = nn.Linear(3, 2)
    inputs, samples = preprocess(model, [torch.ones(4, 3), torch.zeros(4)], limit=3)
    assert inputs.shape == (3, 3) and samples is None
    assert torch.equal(run_backbone(model, inputs), model(inputs))


def test_models_that_slide_a_window_see_one():
    model = nn.Module()
    model.test_cfg = dict(mode='slide', crop_size=(4, 8), stride=(2, 4))
    images = torch.arange(2 * 3 * 6 * 6.0).reshape(2, 3, 6, 6)
    assert torch.equal(as_deployed(model, images), images[:, :, 1:5])
    for other in (None, [None, None], dict(mode='whole')):  # a list: MMDetection's Co-DETR
        model.test_cfg = other
        assert as_deployed(model, images) is images


def test_tensors_are_found_in_any_output():
    a, b = torch.ones(1), torch.zeros(1)
    assert tensors_in(dict(x=(a, [b]), y=None, z=3)) == [a, b]


def test_an_item_of_mmdetections_reid_is_an_image():
    pytest.importorskip('mmdet')
    config = load_config('mmdet::reid/reid_r50_8xb32-6e_mot17train80_test-mot17val20.py')
    assert 'triplet_sampler' in config.train_dataloader.dataset
    assert 'triplet_sampler' not in unlabelled_loader(config, 0).dataset
    # Nor is a fold that is tested calibrated on.
    fold = dict(type='KFoldDataset', num_splits=3, fold=1, dataset=config.train_dataloader.dataset)
    config.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=fold)
    kept = unlabelled_loader(config, 0).dataset
    assert (kept.type, kept.fold) == ('KFoldDataset', 1)
    assert kept.dataset.pipeline == config.test_dataloader.dataset.pipeline


def test_images_are_loaded_as_in_the_first_of_several_test_sets():
    load = dict(type='LoadImageFromFile')
    labels = [dict(type=f'mmdet.Load{kind}Annotations') for kind in ('', 'Panoptic', 'Empty')]
    part = dict(type='CocoDataset', pipeline=[load, *labels, dict(type='PackDetInputs')])
    test = dict(type='ConcatDataset', datasets=[part, dict(part, pipeline=[])])
    train = dict(type='CocoDataset', ann_file='a.json', pipeline=labels)
    config = Config(dict(test_dataloader=dict(dataset=test), train_dataloader=dict(dataset=train)))
    loader = unlabelled_loader(config, 0)
    assert loader.dataset.pipeline == [load, dict(type='PackDetInputs')]
    assert loader.dataset.ann_file == 'a.json'
    config.test_dataloader.dataset.datasets[0].pipeline = []
    with pytest.raises(ValueError, match='has no `pipeline`, which says how to load images'):
        unlabelled_loader(config, 0)


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['label-free', 'label-aug'])
def test_mmdetections_reid_trains(mode):
    pytest.importorskip('mmpretrain')
    pytest.importorskip('mmdet')
    from mmdet.structures import ReIDDataSample

    config = to_denoiserep_config(
        load_config('mmdet::reid/reid_r50_8xb32-6e_mot17train80_test-mot17val20.py')
    )
    config.model.backbone.module.update(depth=18, init_cfg=None)
    config.model.head.update(in_channels=512)
    model = build_model(config)
    model.train()
    freeze_base(model)
    sample = ReIDDataSample()
    sample.set_gt_label([0, 0, 1, 1])
    data = dict(inputs=torch.rand(1, 4, 3, 256, 128), data_samples=[sample])
    if mode == 'label-free':
        losses = denoising_losses(denoisers(model), lambda: run_backbone(model, data['inputs']))
    else:
        losses = denoising_losses(denoisers(model), lambda: model(**data, mode='loss'), 0.1)
    loss, _ = model.parse_losses(losses.total)
    loss.backward()
    assert all(d.weight.grad.any() for d in denoisers(model).values())


def segmentation_batch(size):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    labels = torch.randint(2, (2, 1, size, size))
    truth = [
        SegDataSample(gt_sem_seg=PixelData(data=x), gt_edge_map=PixelData(data=x)) for x in labels
    ]
    return dict(inputs=torch.rand(2, 3, size, size), data_samples=truth)


def detection_batch(size):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    shape = dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size))
    box = torch.tensor([[8.0, 8.0, 100.0, 100.0]])
    truth = [
        DetDataSample(
            metainfo=shape, gt_instances=InstanceData(bboxes=box, labels=torch.ones(1).long())
        )
        for _ in range(2)
    ]
    return dict(inputs=torch.rand(2, 3, size, size), data_samples=truth)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, batch',
    [
        (
            'mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py',
            segmentation_batch,
        ),
        ('mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py', segmentation_batch),
        ('mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py', detection_batch),
    ],
)
def test_heads_get_what_backbones_return_in_training(name, batch):
    pytest.importorskip(name.split('::')[0])
    config = to_denoiserep_config(load_config(name))
    config.model.backbone.module.init_cfg = None
    model = build_model(config)
    batch = batch(128)
    model.train()
    freeze_base(model)
    losses = denoising_losses(denoisers(model), lambda: model(**batch, mode='loss'), 0.1)
    loss, _ = model.parse_losses(losses.total)
    loss.backward()
    assert all(d.weight.grad.any() for d in denoisers(model).values())
    # Batch norms and dropout stay in evaluation, and all does where no head is run.
    kinds = {type(m).__name__ for m in model.backbone.modules() if m.training}
    assert kinds and not kinds & {'BatchNorm2d', 'SyncBatchNorm', 'Dropout'}
    freeze_base(model, heads=False)
    assert not any(m.training for m in model.backbone.modules())
