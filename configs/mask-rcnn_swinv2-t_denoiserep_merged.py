# Merged data: label-free training on COCO and a folder of images without any annotation. Any row
# is merged likewise. For more folders add more `CustomDataset`s.
_base_ = './mask-rcnn_swinv2-t_denoiserep.py'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
coco = dict(
    type='CocoDataset',
    data_root='data/coco/',
    ann_file='annotations/instances_train2017.json',
    data_prefix=dict(img='train2017/'),
    pipeline=train_pipeline,
)
unlabelled = dict(
    type='mmpretrain.CustomDataset',
    data_prefix='data/unlabelled/',
    with_label=False,
    pipeline=train_pipeline,
)
train_dataloader = dict(
    # Grouping by aspect ratio would need the sizes of images that have no annotation.
    batch_sampler=None,
    dataset=dict(
        _delete_=True,
        # MMEngine's own keeps COCO's class names for the checkpoint.
        type='mmengine.ConcatDataset',
        datasets=[coco, unlabelled],
        ignore_keys=['classes', 'palette'],
    ),
)
custom_hooks = [
    dict(type='mmdenoiserep.DenoiseRepHook', mode='label-free'),
    dict(type='mmdenoiserep.ResumableSeedHook'),
]
