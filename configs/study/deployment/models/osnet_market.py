# OSNet x0.25 on halves of Market-1501's training set. torchreid's weights, trained on MSMT17,
# converted by experiments/deployment/convert.py; they have never seen Market-1501.
_base_ = '../../baselines/_base_market.py'
custom_imports = dict(
    imports=['projects.reid.reid', 'experiments.deployment.osnet'], allow_failed_imports=False
)

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
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=64, dataset=dict(pipeline=pipeline))
test_dataloader = dict(batch_size=64, dataset=dict(pipeline=pipeline))

optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.0))
train_cfg = dict(max_iters=300, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300))
