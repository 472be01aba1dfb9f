# TransReID's "Baseline (ViT)": ViT-B/16 at 256 x 128 with a BNNeck, no SIE and no JPM.
_base_ = './pipeline_256x128.py'

model = dict(
    type='ReIDModel',
    data_preprocessor=dict(
        type='ReIDDataPreprocessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        to_rgb=True,
        erase_prob=0.5,
    ),
    backbone=dict(type='ReIDViT', arch='base', img_size=(256, 128), drop_path_rate=0.1),
    head=dict(
        type='BNNeckHead',
        in_channels=[768],
        id_weights=[1.0],
        triplet_weights=[1.0],
        test_weights=[1.0],
    ),
)

optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='SGD', lr=0.008, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys={'.bias': dict(lr_mult=2.0)}),
)
# The cosine runs from the first epoch on, under the warm-up.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=6),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.002, begin=0, end=120),
]
train_cfg = dict(by_epoch=True, max_epochs=120, val_interval=20)
