# RTMDet-nano on the persons of COCO. The checkpoint: the public one, under the keys of MMDetection.
_base_ = './_base_arms.py'
model = 'models/rtmdet_nano_person.py'
checkpoint = 'data/weights/rtmdet_nano_person_mmdet.pth'
