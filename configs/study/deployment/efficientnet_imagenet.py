# EfficientNet-Lite0 on ImageNet. The checkpoint: experiments/deployment/convert.py
_base_ = './_base_300_images.py'
model = 'models/efficientnet_lite0.py'
checkpoint = 'data/weights/efficientnet_lite0.pth'
arms = {
    'output-matched ×2, κ 0.8': dict(
        kind='matched',
        options=dict(keep_clean=0.8),
        config={'train_cfg.max_iters': 900, 'default_hooks.checkpoint.interval': 900},
    )
}
