"""One of several degradations for each image, which leaves no trace in what is drawn behind it."""

import zlib
from typing import Callable, Optional, Sequence

from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS

from ..registry import TRANSFORMS
from .degrade import image_name, seeded


@TRANSFORMS.register_module()
class OneNoise:
    """Degrade an image by one of some transforms: image i meets transform i mod their number.

    Flips and crops behind do not depend on what the transform draws, so a pipeline with it and one
    without augment an image alike.

    Required keys: those of the transforms. The image's number is ``sample_idx`` where there is one
    (in MMEngine's data sets), else it is made from ``img_path``.

    Args:
        transforms (Sequence[dict]): Configs.
    """

    def __init__(self, transforms: Sequence[dict]) -> None:
        self.transforms = [ROOT_TRANSFORMS.build(transform) for transform in transforms]

    def __call__(self, results: dict) -> Optional[dict]:
        """Run the image's transform; None where that gives the image up."""
        with seeded(None):
            return self.choose(results)(results)

    def choose(self, results: dict) -> Callable:
        """The transform that an image meets."""
        number = results.get('sample_idx')
        if number is None:
            number = zlib.crc32(image_name(results).encode())
        return self.transforms[number % len(self.transforms)]

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.transforms})'
