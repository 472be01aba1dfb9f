# Images of ImageNet: `calibration` to solve and train on, `val`, of which the first 200 choose
# settings and the others test. Lines of the lists are `name label`.
default_scope = 'mmpretrain'
data_root = 'data/imagenet/'
classes = [str(i) for i in range(1000)]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.6, 1.0),
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=227, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
images = dict(type='CustomDataset', data_root=data_root, metainfo=dict(classes=classes))
val = dict(images, data_prefix='val', ann_file='val.txt', pipeline=test_pipeline)
in_order = dict(batch_size=20, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
train_dataloader = dict(
    batch_size=20,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        images,
        data_prefix='calibration',
        ann_file='calibration.txt',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(in_order, dataset=dict(val, indices=list(range(200))))
test_dataloader = dict(in_order, dataset=dict(val, indices=list(range(200, 800))))
val_evaluator = dict(type='Accuracy')
test_evaluator = val_evaluator
max_iters = 450
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.0))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=max_iters))
log_processor = dict(by_epoch=False)
del images, val, in_order
