# ViT-Tiny on ImageNet. The checkpoint: AugReg's public ViT-Ti/16 (224 pixels, ImageNet-1k) under the
# keys of MMPretrain's VisionTransformer.
_base_ = './_base_arms.py'
model = 'models/vit_tiny_in1k.py'
checkpoint = 'data/weights/vit_tiny_mmpretrain.pth'
every = dict(options=dict(num_images=300))
arms = {
    'transport': every,
    'closed form': every,
    'closed form, κ 0.8': every,
    'mixture of three': every,
}
del every
