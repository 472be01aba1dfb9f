"""The degraded version of an image, from a folder of images of the same names."""

import os.path as osp

import mmcv
import numpy as np

from ..registry import TRANSFORMS
from ..stock.files import IMAGE_SUFFIXES


@TRANSFORMS.register_module()
class LoadDegraded:
    """Replace a loaded image by the one of the same name in another folder.

    Required keys: ``img``, (H, W, 3), (H, W) or (H, W, 1), and ``img_path``. Changes ``img``.

    Args:
        folder (str): Where the degraded images are. The suffix may differ (a codec's, say).

    Raises:
        FileNotFoundError: If there is no such folder, or an image has no partner in it.
        ValueError: If two images of a name differ in size.
    """

    def __init__(self, folder: str) -> None:
        if not osp.isdir(folder):
            raise FileNotFoundError(f'there is no folder {folder}')
        self.folder = folder

    def __call__(self, results: dict) -> dict:
        """Load the partner of ``results['img_path']``."""
        image = results['img']
        path = self.partner(results['img_path'])
        channels = 1 if image.ndim == 2 else image.shape[2]
        of_8_bits = {1: 'grayscale', 3: 'color'}.get(channels, 'unchanged')
        flag = of_8_bits if image.dtype == np.uint8 else 'unchanged'
        degraded = mmcv.imread(path, flag)
        if degraded is None:
            raise ValueError(f'{path} cannot be read as an image')
        if flag != of_8_bits and degraded.dtype == np.uint8:
            degraded = mmcv.imread(path, of_8_bits)
        alike = image.dtype == degraded.dtype or image.dtype.kind == 'f'
        if not alike or channels != (1 if degraded.ndim == 2 else degraded.shape[2]):
            raise ValueError(
                f'{results["img_path"]} is loaded as {image.dtype} of shape {image.shape} and '
                f'{path} as {degraded.dtype} of shape {degraded.shape}: the two must be alike'
            )
        if degraded.shape[:2] != image.shape[:2]:
            raise ValueError(
                f'{results["img_path"]} is {image.shape[1]}x{image.shape[0]} and {path} is '
                f'{degraded.shape[1]}x{degraded.shape[0]}: the two must show the same pixels'
            )
        results['img'] = degraded.reshape(image.shape).astype(image.dtype)
        return results

    def partner(self, clean: str) -> str:
        """The degraded version's path, of a clean image's."""
        name = osp.join(self.folder, osp.basename(clean))
        stem = osp.splitext(name)[0]
        others = (stem + case for s in IMAGE_SUFFIXES for case in (s, s.upper()))
        for path in (name, *others):
            if osp.isfile(path):
                return path
        raise FileNotFoundError(
            f'{clean} has no partner of its name in {self.folder}: add it, or leave the image out'
        )
