"""The data preprocessor: normalization, then random erasing."""

import math

import torch
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class ReIDDataPreprocessor(ClsDataPreprocessor):
    """MMPretrain's preprocessor with random erasing of *normalized* training images.

    Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, in the form of timm's
    ``mode='pixel'``, which the recipes use: a box takes 2 % to a third of the image, has an
    aspect ratio of 0.3 to 1/0.3, and is filled with N(0, 1) noise. MMPretrain's own transform works
    before normalization, where that noise would be cut off at ±1.

    Args:
        erase_prob (float): Probability of erasing an image in training. Defaults to 0.
        **kwargs: Arguments of :class:`mmpretrain.models.ClsDataPreprocessor`.

    Raises:
        ValueError: If the probability is not in [0, 1].
    """

    def __init__(self, erase_prob: float = 0.0, **kwargs) -> None:
        if not 0 <= erase_prob <= 1:
            raise ValueError(f'erase_prob must be in [0, 1], got {erase_prob}')
        super().__init__(**kwargs)
        self.erase_prob = erase_prob

    def keep_pairs(self) -> None:
        """Erase nothing from now on: DenoiseRepHook's batches on measured noise are pairs."""
        self.erase_prob = 0.0

    def forward(self, data: dict, training: bool = False) -> dict:
        """See :class:`ClsDataPreprocessor`; ``inputs`` come out as (N, 3, H, W), float32."""
        data = super().forward(data, training)
        if training and self.erase_prob:
            for image in data['inputs']:
                if torch.rand(()) < self.erase_prob:
                    erase(image)
        return data


def erase(image: Tensor, attempts: int = 10) -> None:
    """Fill a random box of an image (C, H, W) with noise, in place.

    Boxes that do not fit are drawn again, a few times.
    """
    channels, height, width = image.shape
    for _ in range(attempts):
        area = _uniform(0.02, 1 / 3) * height * width
        aspect = math.exp(_uniform(math.log(0.3), -math.log(0.3)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top = int(torch.randint(height - h + 1, ()))
            left = int(torch.randint(width - w + 1, ()))
            image[:, top : top + h, left : left + w] = torch.randn(
                channels, h, w, dtype=image.dtype, device=image.device
            )
            return


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
