_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['projects.reid.reid'], allow_failed_imports=False)

default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=20, max_keep_ckpts=1, save_best='reid/mAP', rule='greater'),
    visualization=dict(_delete_=True, type='RankedListHook', enable=False),
)
val_evaluator = dict(type='ReIDMetric')
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
