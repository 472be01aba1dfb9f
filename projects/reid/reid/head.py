"""The BNNeck head: identity and triplet losses in training, features in testing."""

from logging import WARNING
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn


@MODELS.register_module()
class BNNeckHead(BaseModule):
    """A BNNeck and a classifier for each of the backbone's features.

    Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", CVPR
    workshops 2019: the triplet loss sees the feature, the identity loss the feature behind a batch
    norm whose bias stays at zero. Test features are those before the batch norm, concatenated.

    Args:
        in_channels (Sequence[int]): Channels of the backbone's features.
        num_classes (int): Persons in the training set.
        id_weights (Sequence[float]): Weight of each feature's identity loss; a feature of weight 0
            has no BNNeck and no classifier.
        triplet_weights (Sequence[float]): Weight of each feature's triplet loss.
        test_weights (Sequence[float]): Factor of each feature in the test feature; with 0 it is
            left out.
        id_loss (dict, optional): Defaults to cross-entropy.
        triplet_loss (dict, optional): Defaults to :class:`BatchHardTripletLoss` with soft margin.
        text_channels (int): Channels of CLIP-ReID's text features, one for each person, against
            which the last feature is classified too; 0 for none. Defaults to 0.
        init_cfg (dict, optional): Defaults to normal classifiers, of deviation 0.001.

    Raises:
        ValueError: If there is not one weight of each kind for each feature.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        id_weights: Sequence[float] = (1.0,),
        triplet_weights: Sequence[float] = (1.0,),
        test_weights: Sequence[float] = (1.0,),
        id_loss: Optional[dict] = None,
        triplet_loss: Optional[dict] = None,
        text_channels: int = 0,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg or dict(type='Normal', layer='Linear', std=0.001))
        weights = (id_weights, triplet_weights, test_weights)
        if any(len(each) != len(in_channels) for each in weights):
            raise ValueError(
                f'{len(in_channels)} features, but weights {", ".join(map(str, weights))}'
            )
        self.num_classes = num_classes
        self.id_weights, self.triplet_weights, self.test_weights = map(tuple, weights)
        classified = [c for c, weight in zip(in_channels, id_weights) if weight]
        self.necks = nn.ModuleList(nn.BatchNorm1d(channels) for channels in classified)
        self.classifiers = nn.ModuleList(
            nn.Linear(channels, num_classes, bias=False) for channels in classified
        )
        for neck in self.necks:
            neck.bias.requires_grad_(False)
        self.id_loss = MODELS.build(id_loss or dict(type='CrossEntropyLoss'))
        self.triplet_loss = MODELS.build(triplet_loss or dict(type='BatchHardTripletLoss'))
        if text_channels:
            self.register_buffer('text_features', torch.zeros(num_classes, text_channels))
        else:
            self.text_features = None
        self._text_features_checked = False

    def forward(self, features: Tuple[Tensor, ...]) -> Tensor:
        """The test feature, (N, D), float32, not normalized."""
        used = [f.float() * w for f, w in zip(features, self.test_weights) if w]
        return torch.cat(used, dim=1)

    def logits(self, features: Tuple[Tensor, ...]) -> List[Tensor]:
        """Scores of the persons by each classifier, (N, ``num_classes``)."""
        classified = [f for f, weight in zip(features, self.id_weights) if weight]
        return [
            classifier(neck(feature))
            for classifier, neck, feature in zip(self.classifiers, self.necks, classified)
        ]

    def loss(
        self, features: Tuple[Tensor, ...], data_samples: List[DataSample]
    ) -> Dict[str, Tensor]:
        """``loss_id``, ``loss_triplet``, with text features ``loss_text``, and ``accuracy``.

        Without any classifier there is neither ``loss_id`` nor ``accuracy``.

        Raises:
            ValueError: If a label is not below ``num_classes``.
        """
        labels = torch.cat([sample.gt_label for sample in data_samples])
        if int(labels.max()) >= self.num_classes:
            raise ValueError(
                f'label {int(labels.max())}, but num_classes={self.num_classes}; set '
                'model.head.num_classes to the number of persons in the training set'
            )
        logits = self.logits(features)
        weights = [weight for weight in self.id_weights if weight]
        losses = {}
        if logits:
            losses['loss_id'] = sum(
                w * self.id_loss(score, labels) for w, score in zip(weights, logits)
            )
        losses['loss_triplet'] = sum(
            weight * self.triplet_loss(feature, labels)
            for weight, feature in zip(self.triplet_weights, features)
            if weight
        )
        if self.text_features is not None:
            self._check_text_features()
            losses['loss_text'] = self.id_loss(features[-1] @ self.text_features.T, labels)
        if logits:
            losses['accuracy'] = (logits[0].argmax(1) == labels).float().mean() * 100
        return losses

    def predict(
        self, features: Tuple[Tensor, ...], data_samples: Optional[List[DataSample]] = None
    ) -> List[DataSample]:
        """Samples with the test feature as ``pred_feature``, (D,), float32."""
        test_features = self(features)
        if data_samples is None:
            data_samples = [DataSample() for _ in test_features]
        for sample, feature in zip(data_samples, test_features):
            sample.set_field(feature, 'pred_feature', dtype=Tensor)
        return data_samples

    def _check_text_features(self) -> None:
        if not self._text_features_checked and not self.text_features.any():
            print_log(
                'head.text_features are zero, so loss_text teaches nothing: load a checkpoint of '
                'the first stage, or a converted one',
                'current',
                WARNING,
            )
        self._text_features_checked = True
