"""Architectures against published numbers and against the networks written down anew."""

import math
from pathlib import Path

import published
import pytest
import small
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from projects.reid.reid import BatchHardTripletLoss, ReIDViT
from projects.reid.reid.backbone import shuffle_patches, source_grid
from projects.reid.reid.convert import fitted, map_checkpoint

CONFIGS = Path(__file__).parents[1] / 'configs'


def converted(reference: nn.Module, config, state=None):
    """A model of ours with the published network's weights."""
    model = small.build(config)
    fitted(map_checkpoint(state or reference.state_dict(), model).state, model, pretraining=False)
    reference.eval()
    return model


def samples(cameras, labels=None):
    out = []
    for i, camera in enumerate(cameras):
        sample = DataSample(camera=camera, metainfo=dict(img_path=f'{i}.jpg'))
        out.append(sample.set_gt_label(0 if labels is None else labels[i]))
    return out


VARIANTS = {
    'plain': (dict(), dict()),
    'stride 12, SIE, JPM': (
        dict(tokens=51, stride=12, cameras=3, jpm=True),
        dict(stride=12, num_cameras=3, parts=4),
    ),
    'JPM with an odd number of patches': (
        dict(tokens=26, stride=12, cameras=3, jpm=True),
        dict(stride=12, num_cameras=3, parts=4, img_size=(64, 64)),
    ),
    'ICS stem': (dict(ics=True), dict(stem='ics')),
}


@pytest.mark.parametrize('name', VARIANTS)
@torch.no_grad()
def test_transreid_is_the_published_network(name):
    theirs, ours = VARIANTS[name]
    reference = published.TransReID(small.PERSONS, **theirs)
    size = ours.get('img_size', (128, 64))
    config = small.transreid(**{k: v for k, v in ours.items() if k != 'img_size'})
    config.backbone.img_size = size
    model = converted(reference, config)
    images = published.images(size=size)
    cameras = [0, 2, 1] if ours.get('num_cameras') else [None] * 3
    expected = reference.test_feature(images, None if cameras[0] is None else torch.tensor(cameras))
    found = model(images, samples(cameras))
    assert found.shape == (3, 24 * (5 if ours.get('parts') else 1))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # Alone, the backbone has no camera term.
    features = model.backbone(images)
    torch.testing.assert_close(features, reference(images), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_clip_reid_is_the_published_network():
    reference = published.ClipReID(small.PERSONS)
    model = converted(reference, small.clip_reid())
    images = published.images()
    found = model(images, samples([1, 0, 1]))
    expected = reference.test_feature(images, torch.tensor([1, 0, 1]))
    assert found.shape == (3, 24 + 16)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.backbone(images), reference(images), rtol=1e-5, atol=1e-5)
    texts = model.head.text_features
    torch.testing.assert_close(texts, reference.text_features(), rtol=1e-4, atol=1e-4)


# Millions of parameters and tokens, of the full-size backbones.
CLIP = dict(
    pre_norm=True,
    norm_cfg=dict(type='LN', eps=1e-5),
    layer_cfgs=dict(act_cfg=dict(type='mmpretrain.QuickGELU')),
)
SIZES = {
    'ViT-B': (dict(), (16, 8), 85.75),
    'ViT-B, stride 12': (dict(stride=12), (21, 10), 85.81),
    'ViT-B, stride 12, SIE, JPM': (dict(stride=12, num_cameras=6, parts=4), (21, 10), 92.90),
    'ViT-S': (dict(arch='deit-small'), (16, 8), 21.64),
    'ViT-B-ICS at 384 x 128': (dict(stem='ics', img_size=(384, 128)), (24, 8), 88.44),
    'CLIP': (dict(stride=12, projection=512, **CLIP), (21, 10), 86.20),
}


@pytest.mark.parametrize('name', SIZES)
def test_full_sizes(name):
    options, grid, parameters = SIZES[name]
    with torch.device('meta'):
        backbone = ReIDViT(**options)
        assert backbone.patch_resolution == grid
        assert backbone.pos_embed.shape[1] == 1 + math.prod(grid)
        height, width = options.get('img_size', (256, 128))
        tokens, resolution = backbone.patch_embed(torch.zeros(1, 3, height, width))
    assert tokens.shape[1] == math.prod(grid) and tuple(resolution) == grid
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(
        parameters, abs=6e-3
    )


# The published networks of the rows on Market-1501 and the channels of their test feature.
ROWS = {
    'transreid_vit-b': (published.TransReID, dict(), 768),
    'transreid_vit-b-ics': (
        published.TransReID,
        dict(tokens=211, stride=12, cameras=6, jpm=True),
        5 * 768,
    ),
    'transreid-ssl_vit-s': (published.TransReID, dict(dim=384, heads=6), 384),
    'transreid-ssl_vit-b-ics': (published.TransReID, dict(tokens=193, ics=True), 768),
    'clip-reid_vit-b': (
        published.ClipReID,
        dict(tokens=211, stride=12, cameras=6, out=512, text=(512, 12)),
        768 + 512,
    ),
}


@pytest.mark.parametrize('name', ROWS)
def test_rows_take_the_published_keys_at_full_size(name):
    network, options, channels = ROWS[name]
    config = Config.fromfile(CONFIGS / f'{name}_market1501.py')
    with torch.device('meta'):
        reference = network(751, **dict(dict(dim=768, depth=12, heads=12, tokens=129), **options))
        model = MODELS.build(config.model)
        mapped = map_checkpoint(reference.state_dict(), model).state
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        assert {key: value.shape for key, value in mapped.items()} == shapes
        cameras = torch.zeros(2, dtype=torch.int64) if model.backbone.num_cameras else None
        images = torch.zeros(2, 3, *config.model.backbone.img_size)
        assert model.head(model.backbone(images, cameras)).shape == (2, channels)


def test_jpm_rolls_by_four_and_deals_the_halves():
    patches = torch.arange(8.0).view(1, 8, 1)
    assert shuffle_patches(patches).ravel().tolist() == [4, 0, 5, 1, 6, 2, 7, 3]
    patches = torch.arange(7.0).view(1, 7, 1)
    assert shuffle_patches(patches).ravel().tolist() == [4, 1, 5, 2, 6, 3, 0, 2]


def test_position_embeddings_are_resized_bilinearly():
    backbone = ReIDViT(arch=small.ARCH, img_size=(256, 128), stride=12)
    for grid in ((14, 14), (16, 8)):
        ramp = torch.arange(float(grid[0])).view(-1, 1, 1).expand(*grid, 24).reshape(1, -1, 24)
        state = dict(pos_embed=torch.cat([torch.full((1, 1, 24), 99.0), ramp], 1))
        backbone.load_state_dict(state, strict=False)
        assert (backbone.pos_embed[:, 0] == 99).all()
        rows = backbone.pos_embed[0, 1:, 0].view(21, 10)
        centres = (torch.arange(21) + 0.5) * grid[0] / 21 - 0.5
        expected = centres.clamp(0, grid[0] - 1)
        torch.testing.assert_close(rows.detach(), expected[:, None].expand(21, 10))
    with pytest.raises(ValueError, match='30 position embeddings'):
        source_grid(30)


def test_cameras_reach_the_backbone_and_are_checked():
    model = small.build(small.transreid(num_cameras=3))
    images = published.images()
    with torch.no_grad():
        first, second, none = (
            model.run_backbone(images, samples([0, 1, 2]))[0],
            model.run_backbone(images, samples([0, 2, 2]))[0],
            model.backbone(images)[0],
        )
        example = model.run_backbone(images[:2], model.example_samples(2))[0]
    assert torch.equal(first[[0, 2]], second[[0, 2]]) and torch.equal(example, first[:2])
    assert not torch.allclose(first[1], second[1]) and not torch.allclose(first[0], none[0])
    for bad in (samples([0, 1, 3]), samples([0, 1, None]), samples([0, 1, -1])):
        with pytest.raises(ValueError, match=r'2\.jpg: camera .* 0 to 2'):
            model.run_backbone(images, bad)
    with torch.no_grad():
        assert torch.equal(model.run_backbone(images)[0], none) and torch.equal(model(images), none)
    with pytest.raises(ValueError, match='data_samples with a camera each'):
        model(images, mode='predict')
    plain = small.build(small.transreid())
    with torch.no_grad():  # cameras do not matter there
        assert torch.equal(plain(images), plain(images, samples([0, None, 9])))


def triplet(features, labels, margin):
    """The loss image by image."""
    losses = []
    features = features.detach()
    for x, label in zip(features, labels):
        distances = [float((x - y).norm()) for y in features]
        positive = max(d for d, other in zip(distances, labels) if other == label)
        negatives = [d for d, other in zip(distances, labels) if other != label]
        if negatives:
            gap = positive - min(negatives)
            losses.append(math.log1p(math.exp(gap)) if margin is None else max(0, gap + margin))
    return sum(losses) / len(losses)


@pytest.mark.parametrize('margin', [None, 0.3])
def test_the_triplet_loss_is_its_definition(margin):
    torch.manual_seed(0)
    loss = BatchHardTripletLoss(margin)
    for labels in ([0, 0, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, 0, 1]):
        features = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
        found = loss(features, torch.tensor(labels))
        assert found.item() == pytest.approx(triplet(features, labels, margin), rel=1e-5)
        found.backward()
        assert torch.isfinite(features.grad).all() and features.grad.any()
    features = torch.ones(3, 5, requires_grad=True)
    loss(features, torch.tensor([1, 1, 1])).backward()  # one person: nothing, but with a graph
    assert not features.grad.any()


@pytest.mark.parametrize('config', [small.transreid(num_cameras=2, parts=4), small.clip_reid()])
def test_losses_are_weighted_and_reach_all_parameters(config):
    torch.manual_seed(0)
    model = small.build(config)
    model.train()
    if model.head.text_features is not None:
        nn.init.normal_(model.head.text_features)
    labels = [0, 0, 1, 1, 4, 4]
    data = samples([0, 1] * 3, labels)
    features = model.run_backbone(published.images(6), data)
    losses = model.head.loss(features, data)
    targets = torch.tensor(labels)
    smoothing = 0.1 if model.head.text_features is not None else 0.0
    entropy = nn.CrossEntropyLoss(label_smoothing=smoothing)
    margin = config.head.get('triplet_loss', {}).get('margin')
    weights = [w for w in config.head.id_weights if w]
    expected = sum(w * entropy(s, targets) for w, s in zip(weights, model.head.logits(features)))
    torch.testing.assert_close(losses['loss_id'], expected)
    expected = sum(
        w * triplet(f, labels, margin) for w, f in zip(config.head.triplet_weights, features)
    )
    assert float(losses['loss_triplet']) == pytest.approx(expected, rel=1e-4)
    if 'loss_text' in losses:
        scores = features[-1] @ model.head.text_features.T
        torch.testing.assert_close(losses['loss_text'], entropy(scores, targets))
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    for name, parameter in model.named_parameters():
        if 'necks' in name and name.endswith('bias'):  # the BNNeck's, frozen at zero
            assert not parameter.requires_grad and not parameter.any()
        else:
            assert parameter.grad is not None and parameter.grad.any(), name


def test_labels_beyond_the_classifier_are_refused():
    model = small.build(small.transreid())
    with pytest.raises(ValueError, match='label 7, but num_classes=5'):
        model(published.images(2), samples([0, 0], [7, 1]), mode='loss')


def test_predictions_carry_the_test_feature():
    model = small.build(small.transreid(parts=4))
    images = torch.randint(256, (2, 3, 128, 64), dtype=torch.uint8)
    with torch.no_grad():
        results = model.test_step(dict(inputs=list(images), data_samples=samples([0, 0])))
        features = model.backbone(model.data_preprocessor(dict(inputs=list(images)))['inputs'])
    expected = torch.cat([features[0], *(f / 4 for f in features[1:])], 1)
    torch.testing.assert_close(torch.stack([r.pred_feature for r in results]), expected)
    assert results[0].gt_label == 0 and results[0].img_path == '0.jpg'


def test_a_head_without_classifiers_trains_by_the_triplet_loss():
    from mmengine.registry import MODELS
    from mmpretrain.structures import DataSample

    head = MODELS.build(
        dict(type='BNNeckHead', in_channels=[8], num_classes=2, id_weights=(0,), test_weights=(1,))
    )
    samples = [DataSample().set_gt_label(label) for label in (0, 0, 1, 1)]
    losses = head.loss((torch.randn(4, 8),), samples)
    assert list(losses) == ['loss_triplet'] and torch.isfinite(losses['loss_triplet'])
