# CLIP-ReID with SIE and OLP, its second stage: CLIP's ViT-B/16 with stride 12 and camera
# embeddings, trained against the text features of the first stage.
_base_ = './transreid_vit-b.py'

model = dict(
    backbone=dict(
        stride=12,
        camera_scale=1.0,
        camera_tokens='cls',
        projection=512,
        drop_path_rate=0.0,
        pre_norm=True,
        norm_cfg=dict(type='LN', eps=1e-5),
        layer_cfgs=dict(act_cfg=dict(type='mmpretrain.QuickGELU')),
    ),
    # The class token before the last layer, behind it, and projected.
    head=dict(
        in_channels=[768, 768, 512],
        id_weights=[0.0, 0.25, 0.25],
        triplet_weights=[1.0, 1.0, 1.0],
        test_weights=[0.0, 1.0, 1.0],
        id_loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        triplet_loss=dict(type='BatchHardTripletLoss', margin=0.3),
        text_channels=512,
    ),
)

optim_wrapper = dict(optimizer=dict(_delete_=True, type='Adam', lr=5e-6, weight_decay=1e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=11),
    dict(type='MultiStepLR', milestones=[30, 50], gamma=0.1),
]
train_cfg = dict(max_epochs=60)
