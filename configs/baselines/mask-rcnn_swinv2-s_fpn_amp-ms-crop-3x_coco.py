# Mask R-CNN with SwinV2-S, on the schedule of MMDetection's Mask R-CNN Swin-S (AdamW, 3x).
_base_ = 'mmdet::swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco.py'
custom_imports = dict(imports=['mmpretrain.models'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.SwinTransformerV2',
        arch='small',
        img_size=256,
        window_size=8,
        drop_path_rate=0.2,
        out_indices=(0, 1, 2, 3),
        pad_small_map=True,  # for any input size: maps smaller than a window are padded
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://mmassets.onedl.ai/mmclassification/v0/swin-v2/swinv2-small-w8_3rdparty_in1k-256px_20220803-b01a4332.pth',
            prefix='backbone.',
        ),
    )
)
# SwinV2's own names for what the Swin config trains without weight decay.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            '.cpb_mlp': dict(decay_mult=0.0),
            '.logit_scale': dict(decay_mult=0.0),
        }
    )
)
