"""Whether a checkpoint is one of a model: MMEngine itself goes on with whatever is missing."""

from typing import Any, Optional, Tuple

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

from ..denoiser import Denoiser
from ..network.observation import NoisePredictor
from ..network.state_dict import DENOISER_KEY
from ..stock.checkpoint import first_of, load_what_fits, weights_of


def check_fit(model: nn.Module, checkpoint: Any, path: str, allow_missing: bool = False) -> None:
    """Refuse a checkpoint that would leave weights of a model as they are: random, that is.

    What fits is loaded.

    Args:
        model (nn.Module): The model, in a wrapper or not.
        checkpoint (Any): As MMEngine has loaded it: with a 'state_dict', or one itself.
        path (str): Where it is from, for messages.
        allow_missing (bool): Whether weights may be missing. Defaults to False.

    Raises:
        ValueError: In one line, with the first key that is missing.
    """
    weights = _weights(checkpoint, path)
    unwrapped = _unwrapped(model)
    if unwrapped is None:
        return
    fit = load_what_fits(unwrapped, weights)
    lacking = fit.missing + fit.mismatched
    own = _behind_the_backbone(unwrapped)
    if not any(key.startswith(own) for key in weights):  # stock: they stay as they are
        lacking = [key for key in lacking if not key.startswith(own)]
    if not lacking or allow_missing:
        return
    if any(DENOISER_KEY in key for key in fit.unexpected):
        raise ValueError(
            f'{path} is a DenoiseRep checkpoint, and the config is a stock config or another '
            f"model's: {first_of(lacking)} of the model would stay random; fuse the checkpoint "
            '(tools/fuse_ckpt.py), or give its own config'
        )
    what = 'lacks' if fit.missing else 'has in another shape'
    raise ValueError(
        f'{path} does not fit the model of the config: it {what} {first_of(lacking)}, which would '
        'stay random; give the checkpoint of this config, or --allow-missing if that is meant'
    )


def check_backbone(model: nn.Module, checkpoint: Any, path: str = 'the checkpoint') -> None:
    """Refuse a checkpoint without the backbone: denoisers on random layers learn nothing.

    Raises:
        ValueError: In one line, with the first key that is missing.
    """
    unwrapped = _unwrapped(model)
    if unwrapped is None:
        return
    prefix = 'backbone.' if hasattr(unwrapped, 'backbone') else ''
    fit = load_what_fits(unwrapped, _weights(checkpoint, path))
    lacking = [
        key
        for key in fit.missing + fit.mismatched
        if key.startswith(prefix)
        and DENOISER_KEY not in key
        and not key.startswith(_behind_the_backbone(unwrapped))
    ]
    if lacking:
        raise ValueError(
            f'{path} lacks {first_of(lacking)} of the backbone, or has it in another shape; '
            'denoisers need the trained backbone of this config'
        )


def _behind_the_backbone(model: nn.Module) -> Tuple[str, ...]:
    """How the keys of DenoiseRep⁻'s denoisers begin, which no stock checkpoint has."""
    return tuple(
        f'{name}.'
        for name, module in model.named_modules()
        if isinstance(module, NoisePredictor) and not isinstance(module, Denoiser)
    )


def _weights(checkpoint: Any, path: str) -> dict:
    if not isinstance(checkpoint, dict):
        raise ValueError(f'{path} is no checkpoint: it holds a {type(checkpoint).__name__}')
    if 'state_dict' not in checkpoint:  # MMEngine takes a state dict itself for a checkpoint
        if not checkpoint or any(isinstance(value, dict) for value in checkpoint.values()):
            raise ValueError(f"{path} is no checkpoint of MMEngine: it has no 'state_dict'")
        checkpoint = dict(state_dict=checkpoint)
    if not isinstance(checkpoint['state_dict'], dict):
        raise ValueError(f"{path} is no checkpoint of MMEngine: its 'state_dict' is none")
    return weights_of(checkpoint, path)


def _unwrapped(model: nn.Module) -> Optional[nn.Module]:
    """The model itself; None where its weights are spread over processes."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        if 'FullyShardedDataParallel' in type(model).__name__:
            return None
        model = model.get_submodule('module')
    return model
