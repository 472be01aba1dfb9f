"""OSNet for the project of re-identification (Zhou et al., ICCV 2019)."""

from typing import Optional, Sequence, Tuple

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, Sequential
from mmpretrain.registry import MODELS
from torch import Tensor, nn

NORM = dict(type='BN')


@MODELS.register_module()
class OSNet(BaseModule):
    """Omni-scale residual blocks, global pooling and a fully connected layer.

    Parameters stand in the order of the published checkpoints.

    Args:
        channels (Sequence[int]): Of the stem and the three stages. Defaults to those of x0.25.
        out_channels (int): Of the feature. Defaults to 512.
        init_cfg (dict, optional): See :class:`mmengine.model.BaseModule`.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 64, 96, 128),
        out_channels: int = 512,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg)
        stem, *stages = channels
        self.stem = ConvModule(3, stem, 7, stride=2, padding=3, norm_cfg=NORM)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        for i, width in enumerate(stages):
            blocks = [OmniScaleBlock(channels[i], width), OmniScaleBlock(width, width)]
            if i < len(stages) - 1:
                transition = (ConvModule(width, width, 1, norm_cfg=NORM), nn.AvgPool2d(2))
                blocks.append(Sequential(*transition))
            self.stages.append(Sequential(*blocks))
        self.last = ConvModule(width, width, 1, norm_cfg=NORM)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = Sequential(
            nn.Linear(width, out_channels), nn.BatchNorm1d(out_channels), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """The feature of each image, (N, out_channels), in a tuple."""
        x = self.pool(self.stem(x))
        for stage in self.stages:
            x = stage(x)
        return (self.fc(self.gap(self.last(x)).flatten(1)),)


class OmniScaleBlock(BaseModule):
    """A bottleneck of four streams of growing field, summed under one shared gate.

    Args:
        in_channels (int): Of the input.
        out_channels (int): Of the output.
        streams (int): Their number; stream i has i light convolutions. Defaults to 4.
    """

    def __init__(self, in_channels: int, out_channels: int, streams: int = 4) -> None:
        super().__init__()
        width = out_channels // 4
        self.reduce = ConvModule(in_channels, width, 1, norm_cfg=NORM)
        self.streams = nn.ModuleList(
            Sequential(*(light_conv(width) for _ in range(i + 1))) for i in range(streams)
        )
        self.gate = Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, max(width // 16, 1), 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(max(width // 16, 1), width, 1),
            nn.Sigmoid(),
        )
        self.expand = ConvModule(width, out_channels, 1, norm_cfg=NORM, act_cfg=None)
        self.shortcut = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = ConvModule(in_channels, out_channels, 1, norm_cfg=NORM, act_cfg=None)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W)."""
        reduced = self.reduce(x)
        summed = 0
        for stream in self.streams:
            features = stream(reduced)
            summed = summed + features * self.gate(features)
        return self.act(self.expand(summed) + self.shortcut(x))


def light_conv(channels: int) -> Sequential:
    """A pointwise convolution, then a depthwise 3x3 one with norm and activation."""
    depthwise = ConvModule(channels, channels, 3, padding=1, groups=channels, norm_cfg=NORM)
    return Sequential(nn.Conv2d(channels, channels, 1, bias=False), depthwise)
