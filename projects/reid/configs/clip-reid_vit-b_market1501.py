# CLIP-ReID with SIE and OLP, on Market-1501.
_base_ = ['./_base_/clip-reid_vit-b.py', './_base_/market1501.py', './_base_/runtime.py']

model = dict(backbone=dict(num_cameras=6), head=dict(num_classes=751))
train_dataloader = dict(dataset=dict(pipeline={{_base_.train_pipeline}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.test_pipeline}}))
test_dataloader = val_dataloader
load_from = 'work_dirs/clip-reid_vit-b_market1501_stage1/epoch_120.pth'
