"""Corrupted images that are made once and kept."""

import contextlib
import hashlib
import os
import os.path as osp
from importlib import metadata

import cv2
import numpy as np
from mmengine.registry import TRANSFORMS

from mmdenoiserep import __version__
from mmdenoiserep.transforms.degrade import Degrade


@TRANSFORMS.register_module()
class CachedDegrade(Degrade):
    """Degrade an image, or read what that gave before from a lossless PNG.

    The file is found by the noise, the image's path and the image's pixels, so an image that was
    replaced is not mistaken for what it was. Several processes may share a folder.

    Required keys, and what it changes: those of :class:`mmdenoiserep.transforms.Degrade`.

    Args:
        corruption (str): See :class:`mmdenoiserep.transforms.Degrade`.
        severity (int): 1 to 5.
        seed (int): Another one gives other noise. Defaults to 0.
        folder (str, optional): Where the images are kept. Defaults to nowhere.

    Raises:
        OSError: On use, if the folder cannot be written.
    """

    def __init__(self, corruption: str, severity: int = 3, seed: int = 0, folder: str = '') -> None:
        super().__init__(corruption, severity, seed)
        self.folder = folder
        self.version = noise_version()

    def degrade(self, image: np.ndarray, results: dict) -> np.ndarray:
        """What is kept of an image of uint8, or its degraded version, which is kept then."""
        if not self.folder:
            return super().degrade(image, results)
        path = self.path_of(image, str(results.get('img_path', '')))
        degraded = cv2.imread(path, cv2.IMREAD_UNCHANGED) if osp.isfile(path) else None
        if degraded is None:
            degraded = super().degrade(image, results)
            # Noise hardly compresses: more effort than the least is for nothing.
            _, data = cv2.imencode('.png', degraded, [cv2.IMWRITE_PNG_COMPRESSION, 1])
            write(path, data.tobytes())
        return degraded

    def path_of(self, image: np.ndarray, name: str) -> str:
        """Where the degraded version of an image is kept.

        Args:
            image (ndarray): The clean image, (H, W, 3), uint8.
            name (str): Its path.
        """
        text = f'{self.version} {name} {image.shape}'
        key = hashlib.blake2b(text.encode() + image.tobytes(), digest_size=12).hexdigest()
        folder = osp.join(self.folder, folder_of(self.corruption, self.severity, self.seed))
        return osp.join(folder, f'{osp.splitext(osp.basename(name))[0]}-{key}.png')


def folder_of(corruption: str, severity: int, seed: int) -> str:
    """The folder of a noise, in that of all."""
    return f'{corruption}-{severity}-{seed}'


def write(path: str, data: bytes) -> None:
    """Write a file that is complete as soon as it is there.

    Without waiting for the disk, unlike ``atomic_write`` of the package: there are thousands of
    them, and what a power failure leaves is no image and is made again.
    """
    os.makedirs(osp.dirname(path), exist_ok=True)
    temporary = f'{path}.{os.getpid()}.part'
    try:
        with open(temporary, 'wb') as file:
            file.write(data)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def noise_version() -> str:
    """What makes the noise: the library's release, and this package's, which seeds it."""
    for name in ('imagecorruptions-imaug', 'imagecorruptions'):
        try:
            return f'{name} {metadata.version(name)}, mmdenoiserep {__version__}'
        except metadata.PackageNotFoundError:
            continue
    return f'imagecorruptions, mmdenoiserep {__version__}'
