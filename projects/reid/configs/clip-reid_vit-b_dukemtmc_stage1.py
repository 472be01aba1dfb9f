# The first stage of CLIP-ReID on DukeMTMC-reID; its checkpoint starts the second.
_base_ = ['./_base_/clip-reid_vit-b_stage1.py', './_base_/dukemtmc.py']

model = dict(num_classes=702)
train_dataloader = dict(batch_sampler=None, dataset=dict(pipeline={{_base_.test_pipeline}}))
val_dataloader = None
test_dataloader = None
load_from = 'checkpoints/clip_vit-b.pth'
