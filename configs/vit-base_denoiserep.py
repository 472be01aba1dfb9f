# As vit-small: DeiT III at 384 pixels, 85.08 (the paper's baseline: 84.53).
_base_ = ['mmpretrain::deit3/deit3-base-p16_64xb32_in1k-384px.py', './_base_/denoiserep.py']
model = dict(
    backbone=dict(
        _delete_=True, type='mmdenoiserep.DenoiseRepBackbone', module={{_base_.model.backbone}}
    )
)
load_from = 'https://mmassets.onedl.ai/mmclassification/v0/deit3/deit3-base-p16_3rdparty_in1k-384px_20221009-e19e36d4.pth'
