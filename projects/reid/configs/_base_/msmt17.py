# MSMT17 in version 1, with clear faces, as in all published results: 1,041 persons, 15 cameras.
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='IdentityBatchSampler', num_instances=4),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='MSMT17', data_root='data/msmt17', version='V1', split='train'),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='MSMT17', data_root='data/msmt17', version='V1', split='test'),
)
test_dataloader = val_dataloader
