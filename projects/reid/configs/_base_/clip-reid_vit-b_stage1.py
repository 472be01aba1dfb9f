# CLIP-ReID's first stage: four words are learned for each person; CLIP itself is frozen. Nothing
# is augmented, each image's feature is computed once, and there is nothing to test.
_base_ = ['./clip-reid_vit-b.py', './runtime.py']

model = dict(
    _delete_=True,
    type='PromptLearner',
    # The second stage's, without erasing.
    data_preprocessor=dict(
        type='ReIDDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True
    ),
    backbone={{_base_.model.backbone}},
)
custom_hooks = [dict(type='TextFeatureHook')]

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='Adam', lr=3.5e-4, weight_decay=1e-4), paramwise_cfg=None
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 35, begin=0, end=6),
    dict(type='CosineAnnealingLR', eta_min=1e-6, begin=0, end=120),
]
train_cfg = dict(max_epochs=120)
default_hooks = dict(checkpoint=dict(_delete_=True, type='CheckpointHook', interval=120))
val_evaluator = None
test_evaluator = None
val_cfg = None
test_cfg = None
