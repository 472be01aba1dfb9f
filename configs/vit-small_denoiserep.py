# The zoo's ViT-S next to the paper's 83.87: DeiT III at 384 pixels, 83.43.
_base_ = ['mmpretrain::deit3/deit3-small-p16_64xb64_in1k-384px.py', './_base_/denoiserep.py']
model = dict(
    backbone=dict(
        _delete_=True, type='mmdenoiserep.DenoiseRepBackbone', module={{_base_.model.backbone}}
    )
)
load_from = 'https://mmassets.onedl.ai/mmclassification/v0/deit3/deit3-small-p16_3rdparty_in1k-384px_20221008-a2c1a0c7.pth'
