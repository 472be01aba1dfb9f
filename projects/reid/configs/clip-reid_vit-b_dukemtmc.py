# CLIP-ReID with SIE and OLP, on DukeMTMC-reID.
_base_ = ['./_base_/clip-reid_vit-b.py', './_base_/dukemtmc.py', './_base_/runtime.py']

model = dict(backbone=dict(num_cameras=8), head=dict(num_classes=702))
train_dataloader = dict(dataset=dict(pipeline={{_base_.train_pipeline}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.test_pipeline}}))
test_dataloader = val_dataloader
load_from = 'work_dirs/clip-reid_vit-b_dukemtmc_stage1/epoch_120.pth'
