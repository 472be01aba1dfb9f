# Images of 256 x 128 pixels, resized by Pillow as in the published recipes: other backends move
# the results. Random erasing comes after normalization, in the data preprocessor.
train_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='Resize', scale=(128, 256), backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomCrop', crop_size=(256, 128), padding=10),
    dict(type='PackInputs', algorithm_keys=('camera', 'is_query')),
]
test_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='Resize', scale=(128, 256), backend='pillow', interpolation='bilinear'),
    dict(type='PackInputs', algorithm_keys=('camera', 'is_query')),
]
