# Mask R-CNN with VMamba-T[s1l8], on the schedule of MMDetection's Swin-T (AdamW, 1x).
_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
custom_imports = dict(imports=['projects.vmamba.vmamba'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='VMamba',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.2,
        # The converted file. It has the last stage's norm and none for the other three.
        init_cfg=dict(
            type='Pretrained', checkpoint='checkpoints/vmamba-tiny.pth', prefix='backbone.'
        ),
    )
)
