# The checkpoint is the published one, converted: see ../README.md.
_base_ = ['./vmamba-base_8xb128_in1k.py', '../../../configs/_base_/denoiserep.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmdenoiserep.DenoiseRepBackbone',
        module={{_base_.model.backbone}},
    )
)
load_from = 'checkpoints/vmamba-base.pth'
