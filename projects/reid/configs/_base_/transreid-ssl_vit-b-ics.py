# TransReID-SSL's ViT-B/16 with ICS stem at 384 x 128, pre-trained with DINO on LUPerson.
_base_ = './transreid-ssl_vit-s.py'

model = dict(
    backbone=dict(arch='base', img_size=(384, 128), stem='ics'), head=dict(in_channels=[768])
)

train_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='Resize', scale=(128, 384), backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomCrop', crop_size=(384, 128), padding=10),
    dict(type='PackInputs', algorithm_keys=('camera', 'is_query')),
]
test_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='Resize', scale=(128, 384), backend='pillow', interpolation='bilinear'),
    dict(type='PackInputs', algorithm_keys=('camera', 'is_query')),
]
