# VMamba-T[s1l8] on ImageNet-1k with the published recipe: the Swin Transformer's, EMA.
# The older VMamba-T[s2l5] is arch='tiny-s2l5'.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['projects.vmamba.vmamba'], allow_failed_imports=False)

model = dict(
    type='ImageClassifier',
    backbone=dict(type='VMamba', arch='tiny', drop_path_rate=0.2),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=768,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
train_dataloader = dict(batch_size=128)  # on 8 GPUs
optim_wrapper = dict(type='AmpOptimWrapper', clip_grad=dict(max_norm=5.0))
# A default hook and no custom one, so that a config that adds hooks can have this file as a base.
default_hooks = dict(ema=dict(type='EMAHook', momentum=1e-4))
