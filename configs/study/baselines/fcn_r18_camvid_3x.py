# The same FCN, trained three times as long.
_base_ = ['./fcn_r18_camvid.py']

max_iters = 1800
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=1e-6),
]
train_cfg = dict(max_iters=max_iters, val_interval=150)
default_hooks = dict(checkpoint=dict(interval=max_iters))
