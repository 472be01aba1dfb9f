"""From a DenoiseRep checkpoint to a checkpoint and a config of the stock model."""

import os.path as osp
from typing import Any, Dict, NamedTuple, Optional, Sequence, Union

import mmengine
import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..conversion import denoisers, fuse_denoisers
from ..network.state_dict import DENOISER_KEY, is_fused, mark_fused
from ..stock.checkpoint import (
    atomic_write,
    first_of,
    load_checkpoint_file,
    load_exactly,
    weights_of,
)
from ..stock.config import to_stock_config
from ..stock.model import build_model
from ..version import __version__
from .verify import difference_to, explicit_features


class FusionReport(NamedTuple):
    """What :func:`fuse_checkpoint` wrote, and the difference that its check measured."""

    checkpoint: str
    config: str
    num_denoisers: int
    max_difference: Optional[float]

    def __str__(self) -> str:
        checked = (
            'not checked'
            if self.max_difference is None
            else f'largest relative difference to explicit denoising {self.max_difference:.1e}'
        )
        return (
            f'{self.num_denoisers} denoisers fused into {self.checkpoint} ({checked}); '
            f'stock config: {self.config}'
        )


def fuse_checkpoint(
    config: Union[str, Config], checkpoint: str, out: str, check: bool = True
) -> FusionReport:
    """Write the stock checkpoint that a DenoiseRep checkpoint amounts to.

    ``out`` gets exactly the keys and shapes of a freshly built stock model, and beside it the
    stock config is written under the same name with '.py'. Nothing is written unless all
    weights are finite and the fused stock model gives the features that the untouched layers
    give behind explicit denoising steps, on random images.

    Args:
        config (str | Config): The DenoiseRep config that the checkpoint was trained with.
        checkpoint (str): The DenoiseRep checkpoint, loaded as weights only.
        out (str): Where the fused checkpoint is written, '*.pth'.
        check (bool): Whether to compare features. Defaults to True.

    Returns:
        FusionReport: Paths and the largest difference measured.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the checkpoint has no denoisers, is fused already, holds NaN or infinity
            or does not match the config, or if the check fails. Each says so in one line.
    """
    check_out(out, checkpoint)
    config = Config.fromfile(config) if isinstance(config, str) else config
    to_stock_config(config)  # refuses before anything is loaded
    source = load_checkpoint_file(checkpoint)
    weights = _checked_weights(source, checkpoint)
    model = build_model(config)
    model.eval()
    unexpected = load_exactly(model, weights, checkpoint)
    if unexpected:
        raise ValueError(
            f'{checkpoint} does not match the config: the model of the config has no place for '
            + first_of(unexpected)
        )
    dataset_meta = source.get('meta', {}).get('dataset_meta')
    return fuse_model(config, model, out, dataset_meta, check)


def fuse_model(
    config: Config,
    model: nn.Module,
    out: str,
    dataset_meta: Optional[dict] = None,
    check: bool = True,
) -> FusionReport:
    """Fuse a DenoiseRep model, in place, and write it as :func:`fuse_checkpoint` does.

    Args:
        config (Config): The DenoiseRep config of the model.
        model (nn.Module): On the CPU, in evaluation.
        out (str): Where the fused checkpoint is written, '*.pth'.
        dataset_meta (dict, optional): What the checkpoint says of the data set.
        check (bool): Whether to compare features. Defaults to True.

    Raises:
        ValueError: If a weight is not finite or the check fails. Nothing is written then.
    """
    names = list(denoisers(model))
    features = explicit_features(model) if check else None
    fuse_denoisers(model)
    stock_config = to_stock_config(config)
    stock = build_model(stock_config)
    stock.eval()
    state = _stock_state(model, stock, names)
    difference = None if features is None else difference_to(features, stock)

    config_path = out[: -len('.pth')] + '.py'
    # The state dict's metadata names the fused layers, so that a DenoiseRep model refuses them.
    meta = dict(
        dataset_meta=dataset_meta,
        mmengine_version=mmengine.__version__,
        mmdenoiserep_version=__version__,
    )
    with atomic_write(out) as file, atomic_write(config_path) as config_file:
        config_file.write(stock_config.pretty_text.encode())
        torch.save(dict(meta=meta, state_dict=state), file)
    return FusionReport(out, config_path, len(names), difference)


def check_out(out: str, checkpoint: str) -> None:
    """Refuse a name for the result that is none of a checkpoint, or that of the input.

    Raises:
        ValueError: In one line.
    """
    if not out.endswith('.pth'):
        raise ValueError(f'the checkpoint to write must be named *.pth, got {out}')
    same = osp.realpath(out) == osp.realpath(checkpoint)
    if same or (osp.exists(out) and osp.exists(checkpoint) and osp.samefile(out, checkpoint)):
        raise ValueError(f'{out} is the checkpoint itself; give another name')


def _checked_weights(source: Dict[str, Any], path: str) -> Dict[str, Tensor]:
    weights = weights_of(source)
    if is_fused(source['state_dict']):
        raise ValueError(f'{path} is fused already; load it into its stock config')
    if not any(DENOISER_KEY in key for key in weights):
        raise ValueError(
            f'{path} holds no denoisers: it is a stock checkpoint, or that of another model'
        )
    return weights


def _stock_state(model: nn.Module, stock: nn.Module, fused: Sequence[str]) -> Dict[str, Tensor]:
    """The fused weights under the keys of a fresh stock model, also loaded into it."""
    state = stock.state_dict()
    learned = model.state_dict()
    if state.keys() != learned.keys():
        raise ValueError(
            'the fused model and the stock model have different keys, the first of them '
            f'{sorted(state.keys() ^ learned.keys())[0]!r}; please report this model'
        )
    parameters = dict(stock.named_parameters())
    for key, value in learned.items():
        if value.shape == state[key].shape:
            state[key].copy_(value)
        elif key in parameters:
            raise ValueError(
                f'{key!r} is {tuple(value.shape)} in the checkpoint and '
                f'{tuple(state[key].shape)} in the stock model'
            )
        # else: a buffer that the model rebuilds by input size stays as it is when fresh
    for name in fused:
        mark_fused(state, name)
    return state
