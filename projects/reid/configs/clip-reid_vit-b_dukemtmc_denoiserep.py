_base_ = ['./clip-reid_vit-b_dukemtmc.py', '../../../configs/_base_/denoiserep.py']
model = dict(
    backbone=dict(
        _delete_=True, type='mmdenoiserep.DenoiseRepBackbone', module={{_base_.model.backbone}}
    )
)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=4e-4, momentum=0.9))
load_from = 'checkpoints/clip-reid_vit-b_dukemtmc.pth'
