# EfficientNet-Lite0 on ImageNet. The checkpoint: experiments/deployment/convert.py
_base_ = './_base_300_images.py'
model = 'models/efficientnet_lite0.py'
checkpoint = 'data/weights/efficientnet_lite0.pth'
arms = {
    'output-matched from stock': None,  # docs/deployment-trials.md
    # Statistics of 20 images are part of what clean images lost.
    'continued, labels': dict(config={'model.backbone.norm_eval': True}),
    'output-matched, mixed, κ 0.65': dict(
        kind='matched', options=dict(cut_mix=True, keep_clean=0.65)
    ),
}
