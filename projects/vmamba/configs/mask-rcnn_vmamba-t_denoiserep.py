# Not in the paper. Published for the baseline: box AP 47.3.
_base_ = ['./mask-rcnn_vmamba-t_fpn_1x_coco.py', '../../../configs/_base_/denoiserep.py']
# The baseline's but for `init_cfg`: the checkpoint has all weights, no classifier is needed.
vmamba = dict(type='VMamba', arch='tiny', out_indices=(0, 1, 2, 3), drop_path_rate=0.2)
model = dict(backbone=dict(_delete_=True, type='mmdenoiserep.DenoiseRepBackbone', module=vmamba))
load_from = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2det/mask_rcnn_vssm_fpn_coco_tiny_s_epoch_12.pth'
del vmamba
