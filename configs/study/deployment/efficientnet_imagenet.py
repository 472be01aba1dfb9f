# EfficientNet-Lite0 on ImageNet. The checkpoint: experiments/deployment/convert_efficientnet_lite.py
_base_ = './_base_arms.py'
model = 'models/efficientnet_lite0.py'
checkpoint = 'data/weights/efficientnet_lite0.pth'
every = dict(options=dict(num_images=300))
arms = {
    'transport': every,
    'closed form': every,
    'closed form, κ 0.8': every,
    'mixture of three': every,
}
del every
