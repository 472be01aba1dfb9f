# ViT-B on CIFAR-10: as ViT-S.
_base_ = './vit-small_cifar10.py'

model = dict(
    backbone=dict(
        arch='deit-base',
        init_cfg=dict(
            checkpoint='https://mmassets.onedl.ai/mmclassification/v0/deit/deit-base_pt-16xb64_in1k_20220216-db63c16c.pth'
        ),
    ),
    head=dict(in_channels=768),
)
