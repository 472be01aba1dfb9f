# TransReID with stride 12, SIE and JPM, on Market-1501.
_base_ = ['./_base_/transreid_vit-b-ics.py', './_base_/market1501.py', './_base_/runtime.py']

model = dict(backbone=dict(num_cameras=6), head=dict(num_classes=751))
train_dataloader = dict(dataset=dict(pipeline={{_base_.train_pipeline}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.test_pipeline}}))
test_dataloader = val_dataloader
load_from = 'checkpoints/vit-b_in1k_jpm.pth'
