# Label-free: no identities, so no P x K sampler.
_base_ = './transreid-ssl_vit-s_cuhk03_denoiserep.py'
train_dataloader = dict(batch_sampler=None)
custom_hooks = [
    dict(type='mmdenoiserep.DenoiseRepHook', mode='label-free'),
    dict(type='mmdenoiserep.ResumableSeedHook'),
]
