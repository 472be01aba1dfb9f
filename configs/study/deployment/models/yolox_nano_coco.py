# YOLOX-nano of COCO; images of COCO val2017 (`data/coco_val`: calibration and test images, of which
# the first 50 choose settings) and, to solve and train on, coco128 as well.
_base_ = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'
model = dict(
    data_preprocessor=dict(batch_augments=None),
    backbone=dict(deepen_factor=0.33, widen_factor=0.25, use_depthwise=True),
    neck=dict(in_channels=[64, 128, 256], out_channels=64, num_csp_blocks=1, use_depthwise=True),
    bbox_head=dict(in_channels=64, feat_channels=64, use_depthwise=True),
)
size = (416, 416)
pad = dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=size, keep_ratio=True),
    pad,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size, keep_ratio=True),
    pad,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
    ),
]
data_root = 'data/coco_val/'
val2017 = dict(
    type='CocoDataset',
    data_root=data_root,
    ann_file='annotations/test.json',
    data_prefix=dict(img='val2017/'),
    test_mode=True,
    pipeline=test_pipeline,
)
train_dataloader = dict(
    _delete_=True,
    batch_size=8,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='ConcatDataset',
        datasets=[
            dict(
                type='CocoDataset',
                data_root=data_root,
                ann_file='annotations/calibration.json',
                data_prefix=dict(img='val2017/'),
                pipeline=train_pipeline,
            ),
            dict(
                type='CocoDataset',
                data_root='data/coco128/',
                ann_file='annotations/instances_train2017.json',
                data_prefix=dict(img='train2017/'),
                pipeline=train_pipeline,
            ),
        ],
    ),
)
loader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_dataloader = dict(_delete_=True, **loader, dataset=dict(val2017, indices=list(range(50))))
test_dataloader = dict(_delete_=True, **loader, dataset=dict(val2017, indices=list(range(50, 200))))
# By the annotations of what is loaded: a file's would count the other images as missed.
val_evaluator = dict(ann_file=None)
test_evaluator = val_evaluator
custom_hooks = []
max_iters = 300
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=300)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.0),
    clip_grad=dict(max_norm=10),
)
default_hooks = dict(
    checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False, interval=max_iters)
)
log_processor = dict(by_epoch=False)
del size, pad, val2017, loader
