"""From a DenoiseRep checkpoint to a checkpoint and a config of the stock model."""

import os.path as osp
from typing import Any, Dict, NamedTuple, Optional, Sequence, Union

import mmengine
import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..conversion import denoisers, fuse_denoisers
from ..network.state_dict import DENOISER_KEY, is_fused, mark_fused
from ..stock.checkpoint import first_of, load_checkpoint_file, load_exactly, weights_of
from ..stock.config import bases_of, denoised_parts, source_of, text_of, to_stock_config
from ..stock.files import check_free, mend_pair, write_pair
from ..stock.model import build_model
from ..version import __version__
from .verify import difference_to, explicit_features


class FusionReport(NamedTuple):
    """What :func:`mmdenoiserep.fuse_checkpoint` wrote, and what its check measured.

    Attributes:
        checkpoint (str): The fused checkpoint, for a stock config.
        config (str): That config.
        num_denoisers (int): How many were fused.
        max_difference (float, optional): Of the backbone's output to explicit denoising, the
            largest, as a share of the largest feature; None without the check.
    """

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
    config: Union[str, Config],
    checkpoint: str,
    out: str,
    check: bool = True,
    force: bool = False,
    strength: float = 1.0,
) -> FusionReport:
    """Write the stock checkpoint that a DenoiseRep checkpoint amounts to.

    ``out`` gets exactly the keys and shapes of a freshly built stock model, and beside it the
    stock config is written under the same name with '.py'. Nothing is written unless all
    weights are finite and the fused stock model gives the features that the untouched layers
    give behind explicit denoising steps, on random images.

    Args:
        config (str | Config): The DenoiseRep config that the checkpoint was trained with.
        checkpoint (str): The DenoiseRep checkpoint, loaded as weights only.
        out (str): Where the fused checkpoint is written, ``*.pth``.
        check (bool): Whether to compare features. Defaults to True.
        force (bool): Whether to replace files that are there. Defaults to False.
        strength (float): η in [0, 1], by which the denoisers are scaled: A becomes I + η (A − I),
            and the fused weight lies between the stock one and W A, as in weight-space ensembles
            (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022). Defaults to 1.

    Returns:
        FusionReport: Paths and the largest difference measured.

    Raises:
        FileExistsError: If a file to write exists.
        FileNotFoundError: If a file is missing.
        ValueError: If the checkpoint has no denoisers, is fused already, holds NaN or infinity
            or does not match the config, if the strength is out of range, or if the check fails.
            Each says so in one line.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f'strength must be in [0, 1], got {strength}')
    config = Config.fromfile(config) if isinstance(config, str) else config
    check_out(out, checkpoint, source_of(config), force)
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
    with torch.no_grad():
        for denoiser in denoisers(model).values():
            denoiser.weight.mul_(strength)
    return fuse_model(config, model, out, source['meta'].get('dataset_meta'), check, force)


def fuse_model(
    config: Config,
    model: nn.Module,
    out: str,
    dataset_meta: Optional[dict] = None,
    check: bool = True,
    force: bool = False,
) -> FusionReport:
    """Fuse a DenoiseRep model, in place, and write it as :func:`mmdenoiserep.fuse_checkpoint` does.

    Args:
        config (Config): The DenoiseRep config of the model.
        model (nn.Module): On the CPU, in evaluation.
        out (str): Where the fused checkpoint is written, ``*.pth``.
        dataset_meta (dict, optional): What the checkpoint says of the data set.
        check (bool): Whether to compare features. Defaults to True.
        force (bool): Whether to replace files that are there. Defaults to False.

    Raises:
        ValueError: If a weight is not finite or the check fails. Nothing is written then.
    """
    names = list(denoisers(model))
    shape = next((part.get('example_shape') for part in denoised_parts(config)), None)
    features = explicit_features(model, shape) if check else None
    fuse_denoisers(model)
    stock_config = to_stock_config(config)
    stock = build_model(stock_config)
    stock.eval()
    state = _stock_state(model, stock, names)
    difference = None if features is None else difference_to(features, stock)

    # The state dict's metadata names the fused layers, so that a DenoiseRep model refuses them.
    for key in ('work_dir', 'experiment_name'):  # of the training, not of who deploys
        stock_config.pop(key, None)
    config_path = write_with_config(out, stock_config, state, dataset_meta, force)
    return FusionReport(out, config_path, len(names), difference)


def write_with_config(
    out: str,
    config: Config,
    state: Dict[str, Tensor],
    dataset_meta: Optional[dict] = None,
    force: bool = False,
) -> str:
    """Write a checkpoint and its config beside it, both or none; the path of the config.

    As in MMEngine's own checkpoints, the config's text is also in its ``meta``, as 'cfg'.
    """
    text = text_of(config)
    meta = dict(
        cfg=text,
        dataset_meta=dataset_meta,
        mmengine_version=mmengine.__version__,
        mmdenoiserep_version=__version__,
    )
    checkpoint = dict(meta=meta, state_dict=state)
    write_pair(out, _config_path(out), text, lambda file: torch.save(checkpoint, file), force)
    return _config_path(out)


def check_out(out: str, checkpoint: str, config: Optional[str] = None, force: bool = False) -> None:
    """Refuse a result that cannot be written, or would replace what it may not.

    What a run with the same ``out`` left when it was killed is put in order first.

    Args:
        out (str): Where the result is to be written, with its config beside it.
        checkpoint (str): The checkpoint that is read.
        config (str, optional): The config file that is read.
        force (bool): Whether files that are there may be replaced. Defaults to False.

    Raises:
        FileExistsError: If a file exists.
        OSError: If the folder cannot be written to.
        ValueError: If it is no name of a checkpoint, a folder, or a file that is read.
    """
    if not out.endswith('.pth') or osp.basename(out) == '.pth':
        raise ValueError(f'the checkpoint to write must be named *.pth, got {out}')
    mend_pair(out, _config_path(out), _config_in)
    inputs = {path: f'base of {config}' for path in bases_of(config)} if config else {}
    inputs[checkpoint] = 'checkpoint'
    if config and osp.isfile(config):
        inputs[config] = 'config'
    check_free([out, _config_path(out)], force, inputs)


def _config_path(out: str) -> str:
    return out[: -len('.pth')] + '.py'


def _config_in(path: str) -> Optional[str]:
    """The config in a checkpoint of ours; None in any other file."""
    try:
        meta = load_checkpoint_file(path)['meta']
    except (OSError, ValueError):
        return None
    text = meta.get('cfg')
    return text if isinstance(text, str) and 'mmdenoiserep_version' in meta else None


def _checked_weights(source: Dict[str, Any], path: str) -> Dict[str, Tensor]:
    weights = weights_of(source, path)
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
