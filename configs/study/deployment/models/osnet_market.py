# OSNet x0.25 on halves of Market-1501's training set. torchreid's weights, trained on MSMT17,
# converted by experiments/deployment/convert.py; they have never seen Market-1501.
_base_ = ['../../../../projects/reid/configs/_base_/runtime.py']
custom_imports = dict(
    imports=['projects.reid.reid', 'experiments.deployment.osnet'], allow_failed_imports=False
)

persons = dict(type='Market1501Halves', data_root='data/market1501', val_persons=75)

model = dict(
    type='ReIDModel',
    data_preprocessor=dict(
        type='ReIDDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(type='OSNet'),
    head=dict(
        type='BNNeckHead', in_channels=[512], num_classes=301, id_weights=(0,), triplet_weights=(0,)
    ),
)

pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='Resize', scale=(128, 256), backend='pillow', interpolation='bilinear'),
    dict(type='PackInputs', algorithm_keys=('camera', 'is_query')),
]
train_pipeline = [
    pipeline[0],
    pipeline[1],
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    pipeline[2],
]
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(split='train', pipeline=train_pipeline, **persons),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(split='val', pipeline=pipeline, **persons),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(split='test', pipeline=pipeline, **persons),
)

optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.0))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=300, val_interval=300)
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, T_max=300)]
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False, interval=300)
)
log_processor = dict(by_epoch=False)
