# TransReID-SSL, ViT-B with ICS stem, on Market-1501.
_base_ = ['./_base_/transreid-ssl_vit-b-ics.py', './_base_/market1501.py', './_base_/runtime.py']

model = dict(head=dict(num_classes=751))
train_dataloader = dict(dataset=dict(pipeline={{_base_.train_pipeline}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.test_pipeline}}))
test_dataloader = val_dataloader
load_from = 'checkpoints/vit-b-ics_lup.pth'
