# DenoiseRep⁻, the paper's ablation: denoising steps behind the backbone. It cannot be fused.
_base_ = ['./transreid-ssl_vit-s_market1501.py', '../../../configs/_base_/denoiserep.py']
model = dict(
    backbone=dict(
        _delete_=True, type='mmdenoiserep.DenoiseRepMinus', module={{_base_.model.backbone}}
    )
)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=4e-4))
load_from = 'checkpoints/transreid-ssl_vit-s_market1501.pth'
