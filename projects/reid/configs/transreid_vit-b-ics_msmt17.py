# TransReID with stride 12, SIE and JPM, on MSMT17.
_base_ = ['./_base_/transreid_vit-b-ics.py', './_base_/msmt17.py', './_base_/runtime.py']

model = dict(backbone=dict(num_cameras=15), head=dict(num_classes=1041))
train_dataloader = dict(dataset=dict(pipeline={{_base_.train_pipeline}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.test_pipeline}}))
test_dataloader = val_dataloader
load_from = 'checkpoints/vit-b_in1k_jpm.pth'
