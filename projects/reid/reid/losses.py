"""The triplet loss with the hardest examples of a batch."""

from typing import Optional

import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F


@MODELS.register_module()
class BatchHardTripletLoss(nn.Module):
    """For each image, its furthest positive and nearest negative in the batch.

    Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017, with
    Euclidean distances of features as they are. Images without a negative are left out; a batch of
    one person has the loss 0, with a graph.

    Args:
        margin (float, optional): The margin; without, the soft margin
            log(1 + exp(positive - negative)). Defaults to none.
    """

    def __init__(self, margin: Optional[float] = None) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar, float32.

        Args:
            features (Tensor): (N, C).
            labels (Tensor): Persons, (N,), int64.
        """
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            distances = torch.cdist(features, features, compute_mode='donot_use_mm_for_euclid_dist')
            same = labels[:, None] == labels[None]
            positive = distances.masked_fill(~same, 0).amax(1)
            negative = distances.masked_fill(same, float('inf')).amin(1)
            usable = torch.isfinite(negative)
            if not usable.any():
                return features.sum() * 0
            gap = positive[usable] - negative[usable]
            loss = F.softplus(gap) if self.margin is None else F.relu(gap + self.margin)
            return loss.mean()

    def extra_repr(self) -> str:
        return f'margin={self.margin}'
