"""From a DenoiseRep checkpoint to a checkpoint and a config of the stock model."""

import copy
import os.path as osp
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Union

import mmengine
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from .checkpoint import atomic_write, load_checkpoint_file, weights_of
from .config import to_stock_config, without_sync_norms
from .conversion import (
    FUSED_MARK,
    denoisers,
    fuse_denoisers,
    is_fused,
    without_denoisers,
)
from .denoiser import DENOISER_KEY
from .probe import with_example
from .version import __version__

#: Largest difference allowed between the fused and the explicitly denoised features, relative
#: to the largest feature: float32 through a deep network.
TOLERANCE = 1e-3


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
    if not out.endswith('.pth'):
        raise ValueError(f'the fused checkpoint must be named *.pth, got {out}')
    if osp.abspath(out) == osp.abspath(checkpoint):
        raise ValueError(f'{out} is the DenoiseRep checkpoint itself; give another name')
    config = Config.fromfile(config) if isinstance(config, str) else config
    stock_config = to_stock_config(config)
    source = load_checkpoint_file(checkpoint)
    weights = _checked_weights(source, checkpoint)

    init_default_scope(config.get('default_scope', 'mmengine'))
    model = _build(config)
    unexpected = load_exactly(model, weights, checkpoint)
    if unexpected:
        raise ValueError(
            f'{checkpoint} does not match the config: the model of the config has no place for '
            + _first_of(unexpected)
        )
    found = denoisers(model)
    inputs, expected = _explicit_features(model) if check else (None, None)
    fuse_denoisers(model)

    stock = _build(stock_config)
    state = _stock_state(model, stock, list(found))
    difference = None
    if check:
        difference = _compare(stock, inputs, expected)

    config_path = out[: -len('.pth')] + '.py'
    # The state dict's metadata names the fused layers, so that a DenoiseRep model refuses them.
    meta = dict(
        dataset_meta=source.get('meta', {}).get('dataset_meta'),
        mmengine_version=mmengine.__version__,
        mmdenoiserep_version=__version__,
    )
    with atomic_write(out) as file, atomic_write(config_path) as config_file:
        config_file.write(stock_config.pretty_text.encode())
        torch.save(dict(meta=meta, state_dict=state), file)
    return FusionReport(out, config_path, len(found), difference)


@contextmanager
def explicit_denoising(model: nn.Module) -> Iterator[None]:
    """Run a network's untouched layers behind explicit denoising steps of their inputs.

    The unfused form of the method, :math:`W (A x) + b`: the reference that fusion is checked
    against.
    """
    with without_denoisers(model) as found:
        handles = [
            model.get_submodule(name).register_forward_pre_hook(_denoise_input(denoiser))
            for name, denoiser in found.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _denoise_input(denoiser):
    return lambda layer, args: (denoiser.denoise(args[0]), *args[1:])


def _checked_weights(source: Dict[str, Any], path: str) -> Dict[str, Tensor]:
    weights = weights_of(source)
    if is_fused(source['state_dict']):
        raise ValueError(f'{path} is fused already; load it into its stock config')
    if not any(DENOISER_KEY in key for key in weights):
        raise ValueError(
            f'{path} holds no denoisers: it is a stock checkpoint, or that of another model'
        )
    return weights


def _build(config: Config) -> nn.Module:
    # Copied: building pops keys. Without `init_cfg` nothing is downloaded, and nothing needs to:
    # all weights come from the checkpoint.
    model = MODELS.build(without_sync_norms(copy.deepcopy(config.model)))
    model.eval()
    return model


def load_exactly(model: nn.Module, weights: Dict[str, Tensor], path: str) -> List[str]:
    """Load a state dict that must be finite and have all that the model has.

    Args:
        model (nn.Module): Any model.
        weights (dict[str, Tensor]): The state dict.
        path (str): Where it is from, for messages.

    Returns:
        list[str]: Keys that the model has no place for.

    Raises:
        ValueError: In one line, if it does not fit.
    """
    for key, value in weights.items():
        if isinstance(value, Tensor) and not torch.isfinite(value).all():
            raise ValueError(f'{path} holds NaN or infinity in {key!r}; nothing was written')
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # shapes, or denoisers of another schedule
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f'{path} does not match the config: {lines[-1]}') from error
    # A model may drop keys on purpose and rebuild them (SwinV2's relative positions).
    missing = [key for key in missing if key not in weights]
    if missing:
        raise ValueError(f'{path} does not match the config: {path} lacks {_first_of(missing)}')
    return unexpected


def _first_of(keys: Sequence[str]) -> str:
    return f'{keys[0]!r}' + (f' and {len(keys) - 1} more keys' if len(keys) > 1 else '')


def _stock_state(model: nn.Module, stock: nn.Module, fused: List[str]) -> Dict[str, Tensor]:
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
        state._metadata[name][FUSED_MARK] = True
    return state


def _explicit_features(model: nn.Module):
    backbone = getattr(model, 'backbone', model)
    generator = torch.Generator().manual_seed(0)

    def run(example: Tensor):
        inputs = torch.randn(2, *example.shape[1:], generator=generator)
        with torch.no_grad(), explicit_denoising(backbone):
            return inputs, _tensors(backbone(inputs))

    return with_example(backbone, run)


def _compare(stock: nn.Module, inputs: Tensor, expected: List[Tensor]) -> float:
    with torch.no_grad():
        features = _tensors(getattr(stock, 'backbone', stock)(inputs))
    worst = max(
        ((a - b).abs().max() / b.abs().max().clamp_min(1e-12)).item()
        for a, b in zip(features, expected)
    )
    if not worst <= TOLERANCE:
        raise ValueError(
            f'fused and explicitly denoised features differ by {worst:.1e} of the largest '
            f'feature, more than {TOLERANCE:.0e}; nothing was written'
        )
    return worst


def _tensors(output: Any) -> List[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [tensor for value in values for tensor in _tensors(value)]
