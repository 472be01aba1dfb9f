"""Configs in MMEngine's runner, shrunk: training, testing, pictures, CLIP-ReID's two stages."""

import json
from pathlib import Path

import numpy as np
import people
import pytest
import small
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner
from PIL import Image

from experiments import reid
from projects.reid.reid.visualization import BLUE, GREEN, RED

CONFIGS = Path(__file__).parents[1] / 'configs'


@pytest.fixture(scope='module')
def market(tmp_path_factory):
    """Twelve persons to train on, eight others to find, and distractors."""
    root = tmp_path_factory.mktemp('market')
    found = people.shots(range(21, 29), 6, 2)
    return str(
        people.write_market(
            root,
            train=people.shots(range(1, 13), 6, 1),
            query=[shot for shot in found if shot[1] == shot[0] % 6 + 1 and shot[2] == 0],
            gallery=[*(shot for shot in found if shot[2] == 1), (0, 1, 0), (0, 2, 0), (-1, 1, 0)],
        )
    )


def shrink(name, market, work_dir, size=(64, 32)):
    """A row's config for small images and a small network, on the drawn persons."""
    config = Config.fromfile(CONFIGS / f'{name}.py')
    config.work_dir = str(work_dir)
    config.load_from = None
    config.randomness = dict(seed=0)
    backbone = config.model.backbone
    backbone.update(arch=small.ARCH, img_size=size)
    if 'head' in config.model:
        channels = dict([(768, 24), (512, 16), (384, 24)])
        config.model.head.num_classes = 12
        config.model.head.in_channels = [channels[c] for c in config.model.head.in_channels]
    if backbone.get('projection'):
        backbone.projection = 16
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        if loader is None:
            continue
        loader.update(batch_size=16, num_workers=0)
        loader.dataset.data_root = market
        for step in loader.dataset.pipeline:
            if step.type == 'Resize':
                step.scale = size[::-1]
            if step.type == 'RandomCrop':
                step.crop_size = size
    config.optim_wrapper.type = 'OptimWrapper'  # automatic mixed precision needs a GPU
    config.optim_wrapper.pop('loss_scale')
    config.train_cfg.max_epochs = 2
    if config.val_cfg is not None:
        config.train_cfg.val_interval = 1
    config.default_hooks.checkpoint.interval = 2
    return config


def test_a_study_measures_what_the_metric_says(market, tmp_path):
    config = shrink('transreid_vit-b_market1501', market, tmp_path)
    runner = Runner.from_cfg(config)
    metrics = runner.test()
    arrays = reid.collect(runner.model.eval(), config)
    found = reid.scores(arrays, np.ones((1, reid.num_images(arrays)), int))
    assert {f'reid/{name}': float(value[0]) for name, value in found.items()} == pytest.approx(
        {key: value for key, value in metrics.items() if key != 'reid/queries'}
    )
    assert (arrays['first_match'] > 0).sum() == metrics['reid/queries']
    assert reid.num_images(arrays) == len(runner.test_dataloader.dataset)


def losses_of(work_dir):
    """The last logged training losses."""
    (log,) = Path(work_dir).glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in log.read_text().splitlines() if 'loss_' in line][-1]


@pytest.mark.parametrize('name', ['transreid_vit-b_market1501', 'transreid_vit-b-ics_market1501'])
def test_training_and_testing(name, market, tmp_path):
    config = shrink(name, market, tmp_path)
    config.default_hooks.logger.interval = 1
    runner = Runner.from_cfg(config)
    runner.train()
    losses = losses_of(tmp_path)
    assert {'loss_id', 'loss_triplet', 'accuracy'} < losses.keys()
    assert all(np.isfinite(losses[key]) for key in ('loss_id', 'loss_triplet'))
    checkpoint = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    assert not checkpoint['state_dict']['head.necks.0.bias'].any()
    assert checkpoint['state_dict']['head.necks.0.running_mean'].any()
    metrics = runner.test()
    assert metrics['reid/queries'] == 8
    assert 0 < metrics['reid/mAP'] <= 100
    assert metrics['reid/R1'] <= metrics['reid/R5'] <= metrics['reid/R10']


def test_the_schedule_is_a_cosine_under_a_warm_up(market, tmp_path):
    runner = Runner.from_cfg(shrink('transreid_vit-b_market1501', market, tmp_path))
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    schedulers = [
        PARAM_SCHEDULERS.build(each, default_args=dict(optimizer=wrapper))
        for each in Config.fromfile(CONFIGS / 'transreid_vit-b_market1501.py').param_scheduler
    ]
    groups = wrapper.param_groups
    rates = {name: [] for name in ('weight', 'bias')}
    names = [n for n, p in runner.model.named_parameters() if p.requires_grad]
    index = {
        'weight': names.index('backbone.layers.0.attn.proj.weight'),
        'bias': names.index('backbone.layers.0.attn.proj.bias'),
    }
    for _ in range(120):
        for kind, i in index.items():
            rates[kind].append(groups[i]['lr'])
        wrapper.step()  # or schedulers would warn
        for scheduler in schedulers:
            scheduler.step()
    for t, (weight, bias) in enumerate(zip(*rates.values())):
        cosine = 0.002 + 0.998 * (1 + np.cos(np.pi * t / 120)) / 2
        warm_up = min(1, 0.01 + 0.99 * t / 5)
        assert weight == pytest.approx(0.008 * cosine * warm_up, rel=2e-2 if t < 5 else 1e-2), t
        assert bias == pytest.approx(2 * weight)


def test_ranked_lists_are_drawn(market, tmp_path):
    config = shrink('transreid_vit-b-ics_market1501', market, tmp_path)
    # As tools/test.py --show-dir does.
    config.default_hooks.visualization.update(
        enable=True, out_dir=str(tmp_path / 'shown'), wait_time=2
    )
    runner = Runner.from_cfg(config)
    runner.test()
    (metric,) = runner.test_evaluator.metrics
    pictures = sorted((tmp_path / 'shown').glob('*.png'))
    assert len(pictures) == 8
    for path, (index, (places, _)) in zip(pictures, sorted(metric.ranking.top.items())):
        assert path.name.startswith(f'{index:05d}_0')
        pixels = np.asarray(Image.open(path))
        query = metric.queries[index]
        right = [metric.gallery[i].id == query.id for i in places]
        assert len(right) == 10
        for colour, count in ((GREEN, sum(right)), (RED, 10 - sum(right)), (BLUE, 1)):
            # A frame of 6 pixels around 128 x 256.
            frame = (128 + 12) * (256 + 12) - 128 * 256
            assert (pixels == colour).all(-1).sum() == count * frame


def test_clip_reid_learns_words_and_then_the_encoder(market, tmp_path):
    first = shrink('clip-reid_vit-b_market1501_stage1', market, tmp_path / 'first')
    first.model.update(num_classes=12, channels=64, num_layers=2)
    before = small.build(first.model).state_dict()
    first.load_from = str(tmp_path / 'clip.pth')
    torch.save(dict(state_dict=before), first.load_from)
    runner = Runner.from_cfg(first)
    runner.train()
    after = runner.model.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed == {'prompts.cls_ctx'}
    assert len(runner.model._image_features) == 72
    losses = losses_of(tmp_path / 'first')
    assert all(np.isfinite(losses[f'loss_{a}']) for a in ('image_to_text', 'text_to_image'))
    saved = torch.load(tmp_path / 'first' / 'epoch_2.pth', weights_only=False)['state_dict']
    with torch.no_grad():
        expected = runner.model.text(runner.model.prompts(torch.arange(12)))
    torch.testing.assert_close(saved['head.text_features'], expected)

    second = shrink('clip-reid_vit-b_market1501', market, tmp_path / 'second')
    second.model.head.text_channels = 16
    second.load_from = str(tmp_path / 'first' / 'epoch_2.pth')
    runner = Runner.from_cfg(second)
    runner.train()
    assert torch.equal(runner.model.head.text_features, saved['head.text_features'])
    losses = losses_of(tmp_path / 'second')
    assert np.isfinite(losses['loss_text']) and losses['loss_text'] > 0
