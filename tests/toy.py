"""A small model, data set and config: everything of a Runner, in milliseconds."""

from pathlib import Path
from typing import Optional

import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel, BaseModule
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset


@MODELS.register_module()
class ToyBackbone(BaseModule):
    """Convolutions with batch norm and dropout, the later layer made first."""

    def __init__(self, width: int = 8, frozen: bool = False, pretrained=None, init_cfg=None):
        super().__init__(init_cfg)
        self.pretrained = pretrained
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=2)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.stem = nn.Conv2d(3, width, 3, stride=2)
        self.bn = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(0.5)
        self.frozen = frozen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.conv1(self.stem(x))))
        return self.conv2(self.dropout(x))

    def train(self, mode: bool = True):
        super().train(mode)
        if self.frozen:  # as ResNet does for `frozen_stages`
            for parameter in self.conv1.parameters():
                parameter.requires_grad = False
        return self


@MODELS.register_module()
class ToyModel(BaseModel):
    """Classifies the toy images."""

    def __init__(self, backbone: dict, pretrained=None, init_cfg: Optional[dict] = None):
        super().__init__(init_cfg=init_cfg)
        if pretrained is not None:  # as MMSegmentation's EncoderDecoder does
            backbone['pretrained'] = pretrained
        self.backbone = MODELS.build(backbone)
        self.neck = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = self.head(self.neck(self.backbone(inputs)).mean((2, 3)))
        if mode == 'loss':
            return dict(loss_cls=F.cross_entropy(logits, data_samples), acc=torch.tensor(0.5))
        return list(logits) if mode == 'predict' else logits


@METRICS.register_module()
class ToyMetric(BaseMetric):
    """The share of positive first logits, which is enough to see a test end."""

    def process(self, data_batch: dict, data_samples: list) -> None:
        self.results += [bool(logits[0] > 0) for logits in data_samples]

    def compute_metrics(self, results: list) -> dict:
        return dict(positive=sum(results) / len(results))


@DATASETS.register_module()
class ToyData(Dataset):
    """Random images whose label is the sign of their mean."""

    def __init__(self, length: int = 16):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(length, 3, 12, 12, generator=generator)
        self.labels = (self.images.mean((1, 2, 3)) > 0).long()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=self.images[index], data_samples=self.labels[index])


def stock_backbone(**kwargs) -> dict:
    return dict(type='ToyBackbone', **kwargs)


def denoiserep_backbone(**kwargs) -> dict:
    return dict(type='mmdenoiserep.DenoiseRepBackbone', module=stock_backbone(**kwargs))


def toy_config(work_dir: Path, backbone: Optional[dict] = None, epochs: int = 2, **hook) -> Config:
    return Config(
        dict(
            default_scope='mmengine',
            model=dict(type='ToyModel', backbone=backbone or denoiserep_backbone()),
            work_dir=str(work_dir),
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                collate_fn=dict(type='default_collate'),
                dataset=dict(type='ToyData'),
                sampler=dict(type='DefaultSampler', shuffle=True),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            test_dataloader=dict(
                batch_size=4,
                num_workers=0,
                collate_fn=dict(type='default_collate'),
                dataset=dict(type='ToyData'),
                sampler=dict(type='DefaultSampler', shuffle=False),
            ),
            test_cfg=dict(),
            test_evaluator=[dict(type='ToyMetric')],
            optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.01)),
            param_scheduler=[dict(type='MultiStepLR', milestones=[1], gamma=0.5)],
            custom_hooks=[
                dict(type='mmdenoiserep.DenoiseRepHook', log_interval=2, **hook),
                dict(type='mmdenoiserep.ResumableSeedHook'),
            ],
            default_hooks=dict(logger=dict(type='LoggerHook', interval=2)),
            randomness=dict(seed=0, deterministic=True),
            log_level='WARNING',
            # MMEngine shares loggers and visualizers between runners of one name and second.
            experiment_name='_'.join(work_dir.parts[-2:]),
        )
    )
