# Not in the paper. Published for the baseline: box AP 47.3.
_base_ = ['./mask-rcnn_vmamba-t_fpn_1x_coco.py', '../../../configs/_base_/denoiserep.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmdenoiserep.DenoiseRepBackbone',
        module={{_base_.model.backbone}},
    )
)
load_from = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2det/mask_rcnn_vssm_fpn_coco_tiny_s_epoch_12.pth'
