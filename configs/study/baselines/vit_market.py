# A small ViT on persons, from scratch, at 96x48.
_base_ = './_base_market.py'

max_iters = 3000

model = dict(
    type='ReIDModel',
    data_preprocessor=dict(
        type='ReIDDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True, erase_prob=0.5
    ),
    backbone=dict(
        type='ReIDViT',
        arch=dict(embed_dims=128, num_layers=4, num_heads=4, feedforward_channels=512),
        img_size=(96, 48),
        patch_size=8,
        stride=8,
    ),
    head=dict(type='BNNeckHead', in_channels=[128], num_classes=301),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(48, 96)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomCrop', crop_size=(96, 48), padding=5),
    dict(type='PackInputs', algorithm_keys=('camera', 'is_query')),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(48, 96)),
    dict(type='PackInputs', algorithm_keys=('camera', 'is_query')),
]
train_dataloader = dict(
    batch_size=64,
    batch_sampler=dict(type='IdentityBatchSampler', num_instances=4),
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(batch_size=256, persistent_workers=True, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(batch_size=256, dataset=dict(pipeline=test_pipeline))

optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=max_iters, eta_min=1e-6),
]
train_cfg = dict(max_iters=max_iters, val_interval=500)
default_hooks = dict(checkpoint=dict(interval=max_iters))
