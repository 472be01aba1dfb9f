# Market-1501: 751 persons to train on, 6 cameras.
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='IdentityBatchSampler', num_instances=4),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='Market1501', data_root='data/market1501', split='train'),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='Market1501', data_root='data/market1501', split='test'),
)
test_dataloader = val_dataloader
