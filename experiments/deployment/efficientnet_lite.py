"""EfficientNet-Lite0 for MMPretrain, whose EfficientNet it is without squeeze and excitation."""

from mmpretrain.models.backbones import EfficientNet
from mmpretrain.registry import MODELS


@MODELS.register_module()
class EfficientNetLite(EfficientNet):
    """EfficientNet-Lite0: ReLU6 and no squeeze and excitation; else MMPretrain's EfficientNet-B0.

    Args:
        **kwargs: Of EfficientNet, but for ``arch`` and ``act_cfg``.
    """

    layer_settings = {
        name: [
            [[k, out, 0, stride, expand, kind] for k, out, _, stride, expand, kind in stage]
            for stage in stages
        ]
        for name, stages in EfficientNet.layer_settings.items()
    }

    def __init__(self, **kwargs) -> None:
        super().__init__(arch='b0', act_cfg=dict(type='ReLU6'), **kwargs)
