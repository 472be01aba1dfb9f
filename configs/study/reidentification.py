# A small ViT on halves of Market-1501: `data/market1501/bounding_box_train`.
_base_ = ['./_base_arms.py']

baseline = 'baselines/vit_market.py'
seeds = [0, 1, 2]
selection_seeds = [0]
_lr = 'optim_wrapper.optimizer.lr'
_iterations = 100
# Without identities there is nothing to draw persons by.
_unlabelled = {'custom_hooks.0.mode': 'label-free', 'train_dataloader.batch_sampler': None}
extra = dict(
    train_cfg=dict(max_iters=_iterations),
    param_scheduler=[
        dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=_iterations, eta_min=0)
    ],
    default_hooks=dict(checkpoint=dict(interval=_iterations)),
    calibration=dict(num_images=500),
)
arms = dict(
    _delete_=True,
    **{
        'continued': dict(kind='continued', grid={_lr: [1e-5, 1e-4, 3e-4]}),
        'label-free': dict(kind='denoiserep', options=_unlabelled, grid={_lr: [1e-3, 1e-2]}),
        'closed form': dict(
            kind='closed-form',
            options={'model.backbone.estimate': 'x0', 'model.backbone.spacing': 0},
            grid={
                'model.backbone.noise_scale': ['unit', 'rms'],
                'model.backbone.last_step': [1, 10, 30],
            },
        ),
        'label-aug': dict(
            kind='denoiserep', grid={_lr: [1e-3, 1e-2], 'custom_hooks.0.lambda_': [0.001, 0.1]}
        ),
    },
)
ablations = dict(
    _delete_=True,
    **{
        # The task's loss alone, through W A.
        'label-aug, λ = 0': dict(
            kind='denoiserep', options={'custom_hooks.0.lambda_': 0.0, _lr: 1e-2}
        )
    },
)
