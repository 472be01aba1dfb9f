# CUHK03 in the new protocol, boxes drawn by hand: 767 persons to train on, 2 cameras.
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='IdentityBatchSampler', num_instances=4),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='CUHK03NP', data_root='data/cuhk03-np', boxes='labeled', split='train'),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='CUHK03NP', data_root='data/cuhk03-np', boxes='labeled', split='test'),
)
test_dataloader = val_dataloader
