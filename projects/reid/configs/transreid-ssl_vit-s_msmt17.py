# TransReID-SSL, ViT-S, on MSMT17.
_base_ = ['./_base_/transreid-ssl_vit-s.py', './_base_/msmt17.py', './_base_/runtime.py']

model = dict(head=dict(num_classes=1041))
train_dataloader = dict(dataset=dict(pipeline={{_base_.train_pipeline}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.test_pipeline}}))
test_dataloader = val_dataloader
load_from = 'checkpoints/vit-s_lup.pth'
