# EfficientNet-Lite0 on ImageNet. The checkpoint: experiments/deployment/convert.py
_base_ = './_base_300_images.py'
model = 'models/efficientnet_lite0.py'
checkpoint = 'data/weights/efficientnet_lite0.pth'
