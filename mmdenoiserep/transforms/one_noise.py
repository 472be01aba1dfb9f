"""One of several degradations for each image, which leaves no trace in what is drawn behind it."""

import zlib
from typing import Any, Callable, Iterator, Optional, Sequence

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
        seed (int, optional): With one an image is always degraded alike, by its path; without, by
            what the pipeline has drawn.

    Raises:
        ValueError: On use, if a transform gives an image up.
    """

    def __init__(self, transforms: Sequence[dict], seed: Optional[int] = None) -> None:
        self.seed = seed
        self.transforms = [ROOT_TRANSFORMS.build(transform) for transform in transforms]

    def __call__(self, results: dict) -> dict:
        """Run the image's transform."""
        name, transform = image_name(results), self.choose(results)
        # By the image as well: nothing may have been drawn between those of a mosaic.
        with seeded(None) as drawn:
            own = f'{drawn} {self._number(results)}'
            with seeded(own if self.seed is None else f'{self.seed} {name}') as number:
                for drawing in with_generators(transform) if self.seed is not None else ():
                    drawing.set_random_seed(number)
                degraded = transform(results)
        if degraded is None:  # the data set would take another image, on one side of the pair
            raise ValueError(f'{transform} gives up the image {name}; noise degrades every image')
        return degraded

    def choose(self, results: dict) -> Callable:
        """The transform that an image meets."""
        return self.transforms[self._number(results) % len(self.transforms)]

    @staticmethod
    def _number(results: dict) -> int:
        number = results.get('sample_idx')
        return zlib.crc32(image_name(results).encode()) if number is None else number

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.transforms})'


def with_generators(node: Any) -> Iterator[Any]:
    """What draws from generators of its own in a data set's pipelines: albumentations does."""
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from with_generators(part)
    elif hasattr(node, 'set_random_seed'):
        yield node
    else:
        for name in ('dataset', 'datasets', 'pipeline', 'transforms', 'aug'):
            yield from with_generators(getattr(node, name, ()))
