_base_ = [
    'mmpretrain::swin_transformer_v2/swinv2-base-w8_16xb64_in1k-256px.py',
    './_base_/denoiserep.py',
]
model = dict(
    backbone=dict(
        _delete_=True, type='mmdenoiserep.DenoiseRepBackbone', module={{_base_.model.backbone}}
    )
)
load_from = 'https://mmassets.onedl.ai/mmclassification/v0/swin-v2/swinv2-base-w8_3rdparty_in1k-256px_20220803-8ff28f2b.pth'
