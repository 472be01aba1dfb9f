# The zoo's CenterNet with ResNet-50 that has a checkpoint: box AP 40.2.
_base_ = ['mmdet::centernet/centernet-update_r50-caffe_fpn_ms-1x_coco.py', './_base_/denoiserep.py']
model = dict(
    backbone=dict(
        _delete_=True, type='mmdenoiserep.DenoiseRepBackbone', module={{_base_.model.backbone}}
    )
)
load_from = 'https://download.openmmlab.com/mmdetection/v3.0/centernet/centernet-update_r50-caffe_fpn_ms-1x_coco/centernet-update_r50-caffe_fpn_ms-1x_coco_20230512_203845-8306baf2.pth'
