"""Handwritten digits that come with scikit-learn: a data set that needs no download."""

from typing import List

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

#: Images of each split; 1797 in all.
SPLITS = dict(train=500, val=297, test=1000)


@DATASETS.register_module()
class Digits(BaseDataset):
    """scikit-learn's digits (UCI, "Optical Recognition of Handwritten Digits"), 8x8, 10 classes.

    Each item has ``img``, uint8 of shape (8, 8, 1), and ``gt_label``, for MMPretrain's pipelines.

    Args:
        split (str): 'train', 'val' or 'test', a fixed random partition: 500, 297 and 1000 images.
        **kwargs: Arguments of :class:`mmengine.dataset.BaseDataset`, ``pipeline`` above all.

    Raises:
        ValueError: If there is no such split.
        ImportError: If scikit-learn is not installed.
    """

    METAINFO = dict(classes=tuple(str(digit) for digit in range(10)))

    def __init__(self, split: str = 'train', **kwargs) -> None:
        if split not in SPLITS:
            raise ValueError(f'split must be one of {tuple(SPLITS)}, got {split!r}')
        self.split = split
        super().__init__(**kwargs)

    def load_data_list(self) -> List[dict]:
        """The images of the split, in a fixed order."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError(
                'the digits come with scikit-learn: pip install scikit-learn'
            ) from error
        digits = load_digits()
        # Brightness goes from 0 to 16.
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        order = np.random.RandomState(0).permutation(len(images))
        begin = sum(list(SPLITS.values())[: list(SPLITS).index(self.split)])
        chosen = order[begin : begin + SPLITS[self.split]]
        return [
            dict(img=images[i], gt_label=int(digits.target[i]), sample_idx=n)
            for n, i in enumerate(chosen)
        ]
