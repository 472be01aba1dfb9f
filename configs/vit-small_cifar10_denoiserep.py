# There is no public checkpoint of this baseline: train it, then set `load_from` to the result.
_base_ = ['./baselines/vit-small_cifar10.py', './_base_/denoiserep.py']
model = dict(
    backbone=dict(
        _delete_=True, type='mmdenoiserep.DenoiseRepBackbone', module={{_base_.model.backbone}}
    )
)
load_from = 'work_dirs/vit-small_cifar10/epoch_20.pth'
