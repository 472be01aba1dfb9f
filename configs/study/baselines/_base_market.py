# Halves of Market-1501's training set: 301 persons to train on, 75 to choose settings on, 375 to be
# found. Figures are not those of Market-1501's test set. A config adds model, pipelines and budget.
_base_ = ['../../../projects/reid/configs/_base_/runtime.py']

persons = dict(type='Market1501Halves', data_root='data/market1501', val_persons=75)
in_order = dict(
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
train_dataloader = dict(
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(split='train', **persons),
)
val_dataloader = dict(in_order, dataset=dict(split='val', **persons))
test_dataloader = dict(in_order, dataset=dict(split='test', **persons))
del persons, in_order

train_cfg = dict(type='IterBasedTrainLoop')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False))
log_processor = dict(by_epoch=False)
