# RTMDet-nano on the persons of COCO. The checkpoint: the public one, under the keys of MMDetection.
_base_ = './_base_nano.py'
model = 'models/rtmdet_nano_person.py'
checkpoint = 'data/weights/rtmdet_nano_person_mmdet.pth'
arms = {
    'output-matched ×4, κ 0.8': dict(
        kind='matched',
        options=dict(keep_clean=0.8),
        config={
            'train_cfg.max_iters': 1200,
            'default_hooks.checkpoint.interval': 1200,
            'optim_wrapper.optimizer.lr': 3e-4,
        },
    )
}
