# The training images of all four data sets, for training without labels.
merged_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='Resize', scale=(128, 256), backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomCrop', crop_size=(256, 128), padding=10),
    dict(type='PackInputs', algorithm_keys=('camera', 'is_query')),
]
merged = dict(
    _delete_=True,
    # MMEngine's own, which lets the data sets be different ones.
    type='mmengine.ConcatDataset',
    datasets=[
        dict(type='Market1501', data_root='data/market1501', pipeline=merged_pipeline),
        dict(type='MSMT17', data_root='data/msmt17', version='V1', pipeline=merged_pipeline),
        dict(type='DukeMTMCreID', data_root='data/dukemtmc', pipeline=merged_pipeline),
        dict(type='CUHK03NP', data_root='data/cuhk03-np', pipeline=merged_pipeline),
    ],
    ignore_keys=['ids', 'num_cameras', 'source'],
)
