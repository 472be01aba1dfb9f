# VMamba-S[s2l15] on ImageNet-1k with the published recipe.
_base_ = './vmamba-tiny_8xb128_in1k.py'
model = dict(backbone=dict(arch='small', drop_path_rate=0.3))
