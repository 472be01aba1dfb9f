# What every DenoiseRep config shares. Add it to the stock config's `_base_` and wrap the backbone:
#
#   _base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', './_base_/denoiserep.py']
#   model = dict(backbone=dict(
#       _delete_=True, type='mmdenoiserep.DenoiseRepBackbone',
#       module={{_base_.model.backbone}}))
#   load_from = '<the stock checkpoint>'
custom_hooks = [
    dict(type='mmdenoiserep.DenoiseRepHook', mode='label-aug', lambda_=0.1),
    # Acts under randomness=dict(deterministic=True) only.
    dict(type='mmdenoiserep.ResumableSeedHook'),
]
