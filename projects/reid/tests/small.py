"""Small models in the form of the configs', of the size of the published ones in published.py."""

from mmengine.config import ConfigDict
from mmengine.registry import MODELS

ARCH = dict(embed_dims=24, num_layers=3, num_heads=3, feedforward_channels=96)
PERSONS = 5


def transreid(**backbone) -> ConfigDict:
    """TransReID; ``parts=4`` with the head of JPM."""
    parts = backbone.get('parts', 0)
    weights = dict(id_weights=(0.5, *[0.125] * parts), test_weights=(1.0, *[0.25] * parts))
    if not parts:
        weights = dict(id_weights=(1.0,), test_weights=(1.0,))
    return ConfigDict(
        type='ReIDModel',
        data_preprocessor=preprocessor(),
        backbone=dict(type='ReIDViT', arch=ARCH, img_size=(128, 64), **backbone),
        head=dict(
            type='BNNeckHead',
            in_channels=[24] * (1 + parts),
            num_classes=PERSONS,
            triplet_weights=weights['id_weights'],
            **weights,
        ),
    )


def clip_reid(**backbone) -> ConfigDict:
    """CLIP-ReID with text features."""
    options = dict(num_cameras=2, camera_scale=1.0, camera_tokens='cls', projection=16)
    return ConfigDict(
        type='ReIDModel',
        data_preprocessor=preprocessor(),
        backbone=dict(
            type='ReIDViT',
            arch=ARCH,
            img_size=(128, 64),
            pre_norm=True,
            norm_cfg=dict(type='LN', eps=1e-5),
            layer_cfgs=dict(act_cfg=dict(type='mmpretrain.QuickGELU')),
            **dict(options, **backbone),
        ),
        head=dict(
            type='BNNeckHead',
            in_channels=[24, 24, 16],
            num_classes=PERSONS,
            id_weights=(0, 0.25, 0.25),
            triplet_weights=(1, 1, 1),
            test_weights=(0, 1, 1),
            id_loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
            triplet_loss=dict(type='BatchHardTripletLoss', margin=0.3),
            text_channels=16,
        ),
    )


def preprocessor() -> dict:
    return dict(
        type='ReIDDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True, erase_prob=0.5
    )


def build(config: ConfigDict):
    model = MODELS.build(config)
    model.eval()
    return model
