# The budget of the small models that were trained here from scratch, and three and ten times that.
_base_ = './_base_arms.py'
extra = {
    'train_cfg.max_iters': 150,
    'optim_wrapper.optimizer.lr': 1e-4,
    'optim_wrapper.optimizer.weight_decay': 0.0,
    'default_hooks.checkpoint.interval': 150,
}


def longer(iterations):
    """Fine-tuning with labels, so many iterations long."""
    changes = {
        'train_cfg.max_iters': iterations,
        'default_hooks.checkpoint.interval': iterations,
        'optim_wrapper.optimizer.lr': 1e-4,
    }
    return dict(kind='continued', config=changes)


arms = {
    'continued ×3, labels': longer(450),
    'continued ×10, labels': longer(1500),
}
del longer
