# ViT-Tiny on ImageNet. The checkpoint: AugReg's public ViT-Ti/16 (224 pixels, ImageNet-1k) under the
# keys of MMPretrain's VisionTransformer.
_base_ = './_base_300_images.py'
model = 'models/vit_tiny_in1k.py'
checkpoint = 'data/weights/vit_tiny_mmpretrain.pth'
arms = {
    'output-matched, mixed, κ 0.8': dict(
        kind='matched', options=dict(cut_mix=True, keep_clean=0.8)
    ),
}
