# Merged data: label-free on the training images of all four data sets, tested on one.
_base_ = ['./transreid-ssl_vit-s_cuhk03_denoiserep.py', './_base_/merged.py']
train_dataloader = dict(batch_sampler=None, dataset={{_base_.merged}})
custom_hooks = [
    dict(type='mmdenoiserep.DenoiseRepHook', mode='label-free'),
    dict(type='mmdenoiserep.ResumableSeedHook'),
]
