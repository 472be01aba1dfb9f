# A small ViT on scikit-learn's digits: nothing to download.
_base_ = ['./_base_arms.py']

baseline = 'baselines/vit_digits.py'
seeds = list(range(10))
selection_seeds = [0, 1, 2]
_lr = 'optim_wrapper.optimizer.lr'
_iterations = 150
extra = dict(
    train_cfg=dict(max_iters=_iterations),
    param_scheduler=[
        dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=_iterations, eta_min=0)
    ],
    default_hooks=dict(checkpoint=dict(interval=_iterations)),
    calibration=dict(num_images=500, max_tokens=None),
)
arms = {
    'continued': dict(grid={_lr: [1e-4, 3e-4, 1e-3]}),
    'label-free': dict(grid={_lr: [1e-3, 1e-2]}),
    'label-aug': dict(grid={_lr: [1e-2, 1e-1], 'custom_hooks.0.lambda_': [0.001, 0.01, 0.1]}),
    'alternating': dict(
        options={'custom_hooks.0.period': _iterations // 4},
        grid={_lr: [1e-4, 1e-3]},
    ),
    'merged': dict(
        options={_lr: 1e-2},
        unlabelled=[dict(split='val')],
    ),
    'DenoiseRep⁻': dict(grid={_lr: [1e-3, 1e-2]}),
}
ablations = {
    name: dict(options={_lr: 3e-2})
    for name in (
        'label-free, x0 at t = 5',
        'label-aug, λ = 0',
        'label-aug, x0 at t = 20, rms',
    )
}
ablations = {
    **ablations,
    'label-aug, l2': dict(kind='denoiserep', options={'model.backbone.loss': 'l2', _lr: 3e-2}),
    'label-aug, closed-form start': dict(
        kind='denoiserep', options={'custom_hooks.0.init': 'calibrated', _lr: 3e-2}
    ),
    'label-aug, all Linear layers': dict(
        kind='denoiserep', options={'model.backbone.targets': [r'layers\..*'], _lr: 3e-2}
    ),
    'closed form, all Linear layers': dict(
        kind='closed-form',
        options={
            'model.backbone.targets': [r'layers\..*'],
            'model.backbone.estimate': 'x0',
            'model.backbone.spacing': 0,
        },
    ),
}
