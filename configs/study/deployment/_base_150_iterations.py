# The budget of the small models that were trained here from scratch, and three times that.
_base_ = './_base_arms.py'
extra = {
    'train_cfg.max_iters': 150,
    'optim_wrapper.optimizer.lr': 1e-4,
    'optim_wrapper.optimizer.weight_decay': 0.0,
    'param_scheduler': [dict(type='CosineAnnealingLR', by_epoch=False, T_max=150)],
    'default_hooks.checkpoint.interval': 150,
}
longer = {
    'train_cfg.max_iters': 450,
    'param_scheduler': [dict(type='CosineAnnealingLR', by_epoch=False, T_max=450)],
    'default_hooks.checkpoint.interval': 450,
    'optim_wrapper.optimizer.lr': 1e-4,
}
arms = {'continued ×3, labels': dict(kind='continued', config=longer)}
del longer
