"""One of several noises for each image, as training and statistics see them."""

from typing import Any, List

from mmdenoiserep.transforms import noise_transform


def one_of(noises: List[str], prob: float, **options: Any) -> dict:
    """A transform that degrades an image by one of some noises, or with 1 - prob not at all."""
    steps = [[dict(noise_transform(noise), **options)] for noise in noises]
    choice = dict(type='mmcv.RandomChoice', transforms=steps)
    return dict(type='mmcv.RandomApply', transforms=[choice], prob=prob)
