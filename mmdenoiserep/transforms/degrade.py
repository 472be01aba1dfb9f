"""Degradations of images by name: what a camera, a codec or the weather does."""

import hashlib
import inspect
import json
import random
import warnings
from contextlib import contextmanager
from typing import Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from ..registry import TRANSFORMS
from ..stock.config import listed

#: Michaelis et al.'s benchmark (arXiv 1907.07484), in its order; then its four further ones.
BENCHMARK = (
    'gaussian_noise',
    'shot_noise',
    'impulse_noise',
    'defocus_blur',
    'glass_blur',
    'motion_blur',
    'zoom_blur',
    'snow',
    'frost',
    'fog',
    'brightness',
    'contrast',
    'elastic_transform',
    'pixelate',
    'jpeg_compression',
)
#: The type of a noise that is given by its name.
DEGRADE = 'mmdenoiserep.Degrade'
HOLDOUT = ('speckle_noise', 'gaussian_blur', 'spatter', 'saturate')
#: Pixels of a side that they take, at least.
LEAST = 32
#: Those that do not draw from NumPy's global generator.
OWN_GENERATORS = ('impulse_noise', 'glass_blur')


@TRANSFORMS.register_module()
class Degrade:
    """Degrade an image, the same image always in the same way.

    By `imagecorruptions`, as MMDetection's ``Corrupt`` does it, but seeded by the image's path: a
    checkpoint meets the same noise whenever and wherever it is tested.

    Required keys: ``img``, shape (H, W, 3), (H, W) or (H, W, 1) with values 0 to 255 (rounded down
    where they are of a floating type, as MMDetection's ``Corrupt`` does), and ``img_path``. Changes
    ``img``.

    Args:
        corruption (str): One of ``BENCHMARK`` or ``HOLDOUT``.
        severity (int): 1 to 5.
        seed (int, optional): Another one gives other noise. None draws it anew each time, from
            Python's and NumPy's generators. Defaults to 0.

    Raises:
        ValueError: If the corruption or severity is unknown, or an image too small.
        ImportError: If `imagecorruptions` is not installed, or is a release that cannot seed the
            corruption.
    """

    def __init__(self, corruption: str, severity: int = 3, seed: Optional[int] = 0) -> None:
        known = (*BENCHMARK, *HOLDOUT)
        if corruption not in known:
            raise ValueError(f'there is no corruption {corruption!r}; there are {", ".join(known)}')
        if severity not in range(1, 6):
            raise ValueError(f'severity of {corruption} must be 1 to 5, got {severity}')
        try:
            from imagecorruptions import corruptions
        except ImportError as error:
            raise ImportError(
                'degrading images needs imagecorruptions: pip install imagecorruptions-imaug'
            ) from error
        parameters = inspect.signature(getattr(corruptions, corruption)).parameters
        #: Whether it draws from generators of its own (scikit-image's, numba's).
        self.takes_seed = 'seed' in parameters
        if corruption in OWN_GENERATORS and not self.takes_seed:
            raise ImportError(
                f'this release of imagecorruptions cannot seed {corruption}, which would differ '
                'from run to run: pip install imagecorruptions-imaug'
            )
        self.corruption = corruption
        self.severity = severity
        self.seed = seed

    def __call__(self, results: dict) -> dict:
        """Degrade ``results['img']``."""
        image = results['img']
        pixels = np.ascontiguousarray(np.clip(image, 0, 255), dtype=np.uint8)
        degraded = self.degrade(pixels, results)
        results['img'] = degraded.reshape(image.shape).astype(image.dtype)
        return results

    def degrade(self, image: np.ndarray, results: dict) -> np.ndarray:
        """The degraded version of an image of uint8, of as many entries; it goes by its path."""
        from imagecorruptions import corrupt

        if min(image.shape[:2]) < LEAST:
            raise ValueError(
                f'{results.get("img_path", "an image")} is {image.shape[1]}x{image.shape[0]}, and '
                f'imagecorruptions takes at least {LEAST}x{LEAST}: leave it out, or give its '
                'degraded version (LoadDegraded)'
            )
        text = f'{self.seed} {self.corruption} {self.severity} {image_name(results)}'
        # Flips and crops behind are not to depend on what the noise has drawn.
        seeding = seeded(None if self.seed is None else text)
        with seeding as seed, warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of its libraries
            options = dict(seed=seed) if self.takes_seed else {}
            degraded = corrupt(
                image, corruption_name=self.corruption, severity=self.severity, **options
            )
        if image.size < degraded.size:  # a mean of the three would have less noise
            degraded = degraded[..., 0]
        return degraded

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.corruption!r}, severity={self.severity})'


def image_name(results: dict) -> str:
    """The last two parts of an image's path: the same wherever the data set lies."""
    return '/'.join(str(results.get('img_path', '')).replace('\\', '/').split('/')[-2:])


def each_noise(noise: Sequence[Union[str, dict]]) -> List[Union[str, dict]]:
    """Noises one by one: 'benchmark:2' is all 15 of Michaelis et al.'s benchmark at severity 2."""
    out: List[Union[str, dict]] = []
    for one in listed(noise):
        group, colon, severity = one.partition(':') if isinstance(one, str) else ('', '', '')
        names = [f'{name}{colon}{severity}' for name in BENCHMARK]
        out += names if group == 'benchmark' else [one]
    return out


def noise_transform(noise: Union[str, dict]) -> dict:
    """The transform that a noise names: 'gaussian_noise:3', or a transform's config.

    Args:
        noise (str | dict): A corruption with its severity (3 where none is given), or the config of
            any registered transform, as a dict or as JSON.

    Returns:
        dict: A config for a pipeline.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(noise, dict):
        if 'type' not in noise:
            raise ValueError(f'the transform {noise} has no type')
        return dict(noise)
    if noise.lstrip().startswith('{'):
        try:
            return noise_transform(json.loads(noise))
        except json.JSONDecodeError as error:
            raise ValueError(f'noise {noise!r} is no JSON: {error}') from None
    corruption, _, severity = noise.partition(':')
    if severity and not severity.isdigit():
        raise ValueError(f'noise is given as name:severity, with 1 to 5, got {noise!r}')
    degrade = Degrade(corruption, int(severity or 3))  # refuses
    return dict(type=DEGRADE, corruption=corruption, severity=degrade.severity)


@contextmanager
def seeded(text: Optional[str]) -> Iterator[int]:
    """Draw from generators seeded by a text while the context is open; then as before.

    Without a text they go on from where they were when the context opened.

    Yields:
        int: The seed, of 32 bits, for generators that need to be told.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    if text is None:
        seed = int(np.random.randint(2**31))
    else:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], 'little')
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)  # of the CPU alone: a GPU's is not put back
    try:
        yield seed
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def name_of(noise: Union[str, dict]) -> Tuple[str, int]:
    """Corruption and severity of a noise that is given by name, else its type and 0."""
    transform = noise_transform(noise)
    return transform.get('corruption', str(transform['type'])), transform.get('severity', 0)
