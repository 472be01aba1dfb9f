# DukeMTMC-reID: 702 persons to train on, 8 cameras. Its authors withdrew it in 2019.
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='IdentityBatchSampler', num_instances=4),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='DukeMTMCreID', data_root='data/dukemtmc', split='train'),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='DukeMTMCreID', data_root='data/dukemtmc', split='test'),
)
test_dataloader = val_dataloader
