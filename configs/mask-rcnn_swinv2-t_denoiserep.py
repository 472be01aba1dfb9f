# There is no public checkpoint of this baseline: train it, then set `load_from` to the result.
_base_ = ['./baselines/mask-rcnn_swinv2-t_fpn_1x_coco.py', './_base_/denoiserep.py']
model = dict(
    backbone=dict(
        _delete_=True, type='mmdenoiserep.DenoiseRepBackbone', module={{_base_.model.backbone}}
    )
)
load_from = 'work_dirs/mask-rcnn_swinv2-t_fpn_1x_coco/epoch_12.pth'
