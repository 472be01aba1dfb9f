# EfficientNet-Lite0 on ImageNet. The checkpoint: experiments/deployment/convert.py
_base_ = './_base_300_images.py'
model = 'models/efficientnet_lite0.py'
checkpoint = 'data/weights/efficientnet_lite0.pth'
# What the closed form solves here: the layers behind which there is no nonlinearity.
linear = dict(cut_mix=True, targets=[r'layers\.0\.conv', r'.*linear_conv\.conv'])
arms = {
    'output-matched ×2, κ 0.8': dict(
        kind='matched',
        options=dict(keep_clean=0.8),
        config={'train_cfg.max_iters': 900, 'default_hooks.checkpoint.interval': 900},
    ),
    'output-matched, mixed, 17 layers': dict(kind='matched', options=linear),
    'output-matched, mixed, 17 layers, κ 0.8': dict(
        kind='matched', options=dict(keep_clean=0.8, **linear)
    ),
}
del linear
