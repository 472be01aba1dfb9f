_base_ = ['mmseg::fcn/fcn_r101-d8_4xb4-80k_ade20k-512x512.py', './_base_/denoiserep.py']
model = dict(
    backbone=dict(
        _delete_=True, type='mmdenoiserep.DenoiseRepBackbone', module={{_base_.model.backbone}}
    )
)
load_from = 'https://mmassets.onedl.ai/mmsegmentation/v0.5/fcn/fcn_r101-d8_512x512_80k_ade20k/fcn_r101-d8_512x512_80k_ade20k_20200615_014143-bc1809f7.pth'
val_evaluator = dict(type='mmdenoiserep.BoundaryIoU')
test_evaluator = val_evaluator
