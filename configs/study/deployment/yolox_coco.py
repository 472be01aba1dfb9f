# YOLOX-nano on COCO. The checkpoint: the public one, under the keys of MMDetection.
_base_ = './_base_nano.py'
model = 'models/yolox_nano_coco.py'
checkpoint = 'data/weights/yolox_nano_mmdet.pth'
