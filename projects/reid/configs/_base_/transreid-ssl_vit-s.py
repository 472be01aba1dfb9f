# TransReID-SSL's ViT-S/16 at 256 x 128, pre-trained with DINO on LUPerson; without ICS stem.
_base_ = './transreid_vit-b.py'

model = dict(backbone=dict(arch='deit-small'), head=dict(in_channels=[384]))

optim_wrapper = dict(optimizer=dict(lr=4e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=21),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.002, begin=0, end=120),
]
