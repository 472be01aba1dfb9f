"""An image classifier of MMPretrain whose backbone is told the cameras."""

from typing import List, Optional, Tuple, Union

import torch
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor


@MODELS.register_module()
class ReIDModel(ImageClassifier):
    """A backbone and a :class:`BNNeckHead`; cameras go from the samples to the backbone.

    Whoever needs the backbone's features of a batch calls :meth:`run_backbone` with its samples.
    Images alone, in ``model.run_backbone(inputs)``, ``model.backbone(inputs)`` and
    ``model(inputs)``, run without the cameras' embeddings; losses and predictions refuse that.

    Args:
        backbone (dict): Usually a :class:`ReIDViT`.
        head (dict): A :class:`BNNeckHead`.
        **kwargs: Arguments of :class:`mmpretrain.models.ImageClassifier`.
    """

    def run_backbone(
        self, inputs: Tensor, data_samples: Optional[List[DataSample]] = None
    ) -> Tuple[Tensor, ...]:
        """The backbone's features of a batch.

        Args:
            inputs (Tensor): Preprocessed images, (N, 3, H, W).
            data_samples (list[DataSample], optional): With ``camera`` each where the backbone has
                camera embeddings. Without samples, no embedding is added.

        Returns:
            tuple[Tensor]: (N, C) each.

        Raises:
            ValueError: If a sample has no camera, or the backbone has no such camera.
        """
        count = getattr(self.backbone, 'num_cameras', 0)
        if not count or data_samples is None:
            return self.backbone(inputs)
        cameras = [sample.get('camera') for sample in data_samples]
        for sample, camera in zip(data_samples, cameras):
            if camera is None or not 0 <= int(camera) < count:
                raise ValueError(
                    f'{sample.get("img_path", "an image")}: camera {camera}, but the backbone has '
                    f'embeddings of the cameras 0 to {count - 1}'
                )
        indices = torch.tensor([int(camera) for camera in cameras], device=inputs.device)
        return self.backbone(inputs, indices)

    def example_samples(self, count: int) -> List[DataSample]:
        """Samples for random images, of one camera after the other."""
        cameras = max(getattr(self.backbone, 'num_cameras', 0), 1)
        samples = [DataSample() for _ in range(count)]
        for i, sample in enumerate(samples):
            sample.set_field(i % cameras, 'camera')
        return samples

    def forward(
        self,
        inputs: Tensor,
        data_samples: Optional[List[DataSample]] = None,
        mode: str = 'tensor',
    ) -> Union[Tensor, dict, List[DataSample]]:
        """The test feature (N, D), losses, or samples with ``pred_feature``, by ``mode``."""
        if mode != 'tensor' and data_samples is None and getattr(self.backbone, 'num_cameras', 0):
            raise ValueError(
                f'mode={mode!r} needs data_samples with a camera each: the backbone has camera '
                'embeddings'
            )
        features = self.run_backbone(inputs, data_samples)
        if mode == 'tensor':
            return self.head(features)
        if mode == 'loss':
            return self.head.loss(features, data_samples)
        if mode == 'predict':
            return self.head.predict(features, data_samples)
        raise RuntimeError(f"mode must be 'tensor', 'loss' or 'predict', got {mode!r}")

    def extract_feat(
        self, inputs: Tensor, data_samples: Optional[List[DataSample]] = None
    ) -> Tuple[Tensor, ...]:
        """As :meth:`run_backbone`."""
        return self.run_backbone(inputs, data_samples)

    def loss(self, inputs: Tensor, data_samples: List[DataSample]) -> dict:
        """The head's losses."""
        return self(inputs, data_samples, mode='loss')

    def predict(
        self, inputs: Tensor, data_samples: Optional[List[DataSample]] = None
    ) -> List[DataSample]:
        """Samples with ``pred_feature``."""
        return self(inputs, data_samples, mode='predict')
