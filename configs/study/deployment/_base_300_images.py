# All of the 300 images of ImageNet that there are to solve on.
_base_ = './_base_arms.py'
every = dict(options=dict(num_images=300))
arms = {
    'transport': every,
    'closed form': every,
    'closed form, κ 0.8': every,
    'mixture of three': every,
}
del every
