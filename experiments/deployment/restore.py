"""Image denoisers in front of a network: what a user would try first."""

import cv2
import numpy as np
from mmengine.registry import TRANSFORMS

METHODS = ('nl-means', 'tv')


@TRANSFORMS.register_module()
class Restore:
    """Denoise an image by a method of OpenCV or scikit-image.

    Required keys: ``img``, shape (H, W, 3), values 0 to 255. Changes ``img``.

    Args:
        method (str): 'nl-means' (OpenCV's non-local means for colour) or 'tv' (scikit-image's total
            variation after Chambolle).
        strength (float): ``h`` of non-local means; ``weight`` of total variation.

    Raises:
        ValueError: If the method is unknown.
    """

    def __init__(self, method: str, strength: float = 10.0) -> None:
        if method not in METHODS:
            raise ValueError(f'there is no method {method!r}; there are {", ".join(METHODS)}')
        self.method = method
        self.strength = strength

    def __call__(self, results: dict) -> dict:
        """Denoise ``results['img']``."""
        image = np.ascontiguousarray(results['img'], dtype=np.uint8)
        results['img'] = self._restored(image).astype(results['img'].dtype)
        return results

    def _restored(self, image: np.ndarray) -> np.ndarray:
        if self.method == 'nl-means':
            return cv2.fastNlMeansDenoisingColored(image, None, self.strength, self.strength)
        from skimage import restoration

        out = restoration.denoise_tv_chambolle(image, weight=self.strength, channel_axis=-1)
        return np.clip(255 * out, 0, 255).round()
