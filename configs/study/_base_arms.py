# The arms of all studies. A study sets `baseline`, `extra`, the learning rates and `unlabelled`.
seeds = [0, 1, 2, 3, 4]
selection_seeds = [0, 1]
control = 'continued'

arms = {
    # The budget without denoisers.
    'continued': dict(kind='continued'),
    # As published: t = N ... 1, noise of unit variance, one posterior step.
    'label-free': dict(kind='denoiserep', options={'custom_hooks.0.mode': 'label-free'}),
    'closed form': dict(
        kind='closed-form',
        options={'model.backbone.estimate': 'x0'},
        grid={
            'model.backbone.noise_scale': ['unit', 'rms'],
            'model.backbone.last_step': [1, 10, 30, 60],
            'model.backbone.spacing': [0],
        },
    ),
    'label-aug': dict(kind='denoiserep'),
    # From the closed form on, where a step goes to x0.
    'label-aug, calibrated': dict(
        kind='denoiserep',
        options={
            'model.backbone.estimate': 'x0',
            'model.backbone.last_step': 10,
            'model.backbone.spacing': 0,
            'model.backbone.loss': 'l2',
            'custom_hooks.0.init': 'calibrated',
            'custom_hooks.0.calibration_images': 256,
        },
        grid={'optim_wrapper.optimizer.lr': [1e-4, 1e-3, 1e-2]},
    ),
    'alternating': dict(kind='denoiserep', options={'custom_hooks.0.mode': 'alternating'}),
    'merged': dict(kind='denoiserep', options={'custom_hooks.0.mode': 'label-free'}),
    'DenoiseRep⁻': dict(kind='minus'),
}
ablations = {
    'closed form, t = N...1': dict(kind='closed-form'),
    'closed form, posterior, t = 20': dict(
        kind='closed-form',
        options={'model.backbone.last_step': 20, 'model.backbone.spacing': 0},
    ),
    'closed form, spacing 2': dict(
        kind='closed-form',
        options={'model.backbone.estimate': 'x0', 'model.backbone.spacing': 2},
    ),
    'label-free, x0 at t = 5': dict(
        kind='denoiserep',
        options={
            'custom_hooks.0.mode': 'label-free',
            'model.backbone.estimate': 'x0',
            'model.backbone.last_step': 5,
            'model.backbone.spacing': 0,
        },
    ),
    'label-aug, λ = 0': dict(kind='denoiserep', options={'custom_hooks.0.lambda_': 0.0}),
    'label-aug, x0 at t = 20, rms': dict(
        kind='denoiserep',
        options={
            'model.backbone.estimate': 'x0',
            'model.backbone.noise_scale': 'rms',
            'model.backbone.last_step': 20,
            'model.backbone.spacing': 0,
        },
    ),
}
