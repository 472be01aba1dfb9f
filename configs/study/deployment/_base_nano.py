# Detectors that train in ten minutes: one checkpoint for many degradations, too.
_base_ = './_base_arms.py'
arms = {
    'output-matched, mixture of three': dict(
        kind='matched', noises=_base_.arms['mixture of three']['noises']
    ),
    'closed form, all 15': dict(kind='measured', noises=['benchmark:3']),
    'output-matched, all 15': dict(kind='matched', noises=['benchmark:3']),
}
# Those that none of them has seen.
transfer = dict(
    arms=[
        'closed form',
        'mixture of three',
        'output-matched, mixture of three',
        'closed form, all 15',
        'output-matched, all 15',
    ],
    noises=_base_.transfer['noises']
    + ['speckle_noise:3', 'gaussian_blur:3', 'spatter:3', 'saturate:3'],
)
