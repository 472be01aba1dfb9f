# What somebody would try whose model sees degraded images. What trains has the budget that the
# model's config or the study's `extra` says.
noises = 'benchmark'  # all 15 of Michaelis et al. at severity 3
each_noise = ['closed form']  # the others are made for the first, which is Gaussian noise
lr = 'optim_wrapper.optimizer.lr'

arms = {
    'stock': dict(kind='stock'),
    'non-local means': dict(
        kind='restore', transform=dict(type='mmengine.Restore', method='nl-means')
    ),
    'total variation': dict(
        kind='restore', transform=dict(type='mmengine.Restore', method='tv', strength=0.1)
    ),
    'batch norm': dict(kind='batch-norm'),
    "paper's closed form": dict(kind='closed-form'),
    "paper's label-free": dict(kind='label-free'),
    'transport': dict(kind='measured', options=dict(method='transport')),
    'closed form': dict(kind='measured'),
    'closed form, κ 0.8': dict(kind='measured', options=dict(keep_clean=0.8)),
    'output-matched': dict(kind='matched'),
    'output-matched, κ 0.8': dict(kind='matched', options=dict(keep_clean=0.8)),
    'output-matched from stock': dict(kind='matched', options=dict(init='zero')),
    'mixture of three': dict(
        kind='measured', noises=['gaussian_noise:3', 'jpeg_compression:3', 'defocus_blur:3']
    ),
    'continued, labels': dict(kind='continued', grid={lr: [1e-5, 1e-4, 1e-3]}),
}
dials = {
    'κ': dict(kind='measured', grid=dict(keep_clean=[0.0, 0.25, 0.5, 0.8, 0.95])),
    'images': dict(kind='measured', grid=dict(num_images=[16, 32, 64, 128, 256])),
    'reach': dict(kind='measured', grid={'model.backbone.reach': ['channel', 'kernel']}),
    'ridge': dict(
        kind='measured', grid=dict(ridges=[[[r, s]] for r, s in ((0.01, 1), (0.1, 3), (1, 30))])
    ),
}
transfer = dict(
    arms=['closed form', 'mixture of three'],
    noises=[
        *('gaussian_noise:1', 'gaussian_noise:5', 'jpeg_compression:1', 'jpeg_compression:5'),
        *('defocus_blur:1', 'defocus_blur:5', 'shot_noise:3', 'impulse_noise:3', 'glass_blur:3'),
        *('motion_blur:3', 'zoom_blur:3', 'snow:3', 'frost:3', 'fog:3', 'brightness:3'),
        *('contrast:3', 'elastic_transform:3', 'pixelate:3'),
    ],
)
del lr
