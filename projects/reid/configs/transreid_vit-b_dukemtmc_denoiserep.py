_base_ = ['./transreid_vit-b_dukemtmc.py', '../../../configs/_base_/denoiserep.py']
model = dict(
    backbone=dict(
        _delete_=True, type='mmdenoiserep.DenoiseRepBackbone', module={{_base_.model.backbone}}
    )
)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=4e-4))
load_from = 'checkpoints/transreid_vit-b_dukemtmc.pth'
