# A small ViT on halves of Market-1501's training set, from scratch, at 96x48: 301 persons to train
# on, 75 to choose settings on, 375 to be found. Figures are not those of Market-1501's test set.
_base_ = ['../../../projects/reid/configs/_base_/runtime.py']

max_iters = 3000
persons = dict(type='Market1501Halves', data_root='data/market1501', val_persons=75)

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
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='IdentityBatchSampler', num_instances=4),
    collate_fn=dict(type='default_collate'),
    dataset=dict(split='train', pipeline=train_pipeline, **persons),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(split='val', pipeline=test_pipeline, **persons),
)
test_dataloader = dict(
    batch_size=256,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(split='test', pipeline=test_pipeline, **persons),
)

optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=max_iters, eta_min=1e-6),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=500)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False, interval=max_iters)
)
log_processor = dict(by_epoch=False)
