# All of the 300 images of ImageNet that there are to solve on.
_base_ = './_base_arms.py'
every = dict(options=dict(num_images=300))
lr = 'optim_wrapper.optimizer.lr'
arms = {
    'transport': every,
    'closed form': every,
    'closed form, κ 0.8': every,
    'mixture of three': every,
    # Twenty minutes and more each: those that keep clean images.
    'output-matched': None,
    'output-matched from stock': dict(options=dict(keep_clean=0.8)),
    'continued, labels': dict(grid={lr: [1e-6, 1e-5]}),  # 1e-4 and 1e-3 were worse
}
dials = dict(reach=None)  # there is one layer with a kernel, or none but depthwise ones
del every, lr
