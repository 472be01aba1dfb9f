"""A folder of images without labels."""

import os.path as osp
from contextlib import suppress
from typing import List

from mmengine.dataset import BaseDataset
from mmengine.utils import scandir
from PIL import Image

from ..registry import DATASETS
from ..stock.files import IMAGE_SUFFIXES


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """All images under a folder, by name, for the pipelines of any package of OpenMMLab.

    Each item has ``img_path``, ``img_id``, its number, and, where Pillow can read them, ``width``
    and ``height`` in pixels, by which MMDetection's AspectRatioBatchSampler groups images.

    Args:
        folder (str): Searched recursively.
        **kwargs: Arguments of :class:`mmengine.dataset.BaseDataset`, ``pipeline`` above all.

    Raises:
        FileNotFoundError: If there is no such folder, or no image in it.
    """

    def __init__(self, folder: str, **kwargs) -> None:
        self.folder = folder
        super().__init__(**kwargs)

    def load_data_list(self) -> List[dict]:
        """The images, sorted by path."""
        if not osp.isdir(self.folder):
            raise FileNotFoundError(f'there is no folder {self.folder}')
        names = sorted(scandir(self.folder, IMAGE_SUFFIXES, recursive=True, case_sensitive=False))
        if not names:
            raise FileNotFoundError(
                f'there is no image in {self.folder} (of {", ".join(IMAGE_SUFFIXES)})'
            )
        return [
            dict(img_path=osp.join(self.folder, name), img_id=i) for i, name in enumerate(names)
        ]

    def get_data_info(self, idx: int) -> dict:
        """What is known of image ``idx``; its size is read when it is asked for."""
        info = super().get_data_info(idx)
        unreadable = (OSError, Image.DecompressionBombError)  # to the pipeline it may not be
        with suppress(*unreadable), Image.open(info['img_path']) as image:
            info['width'], info['height'] = image.size
        return info
