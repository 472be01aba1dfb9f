"""A checkpoint of MMEngine's, and whether its weights fit a model."""

import re
from collections import OrderedDict
from typing import Any, Dict, List, NamedTuple, Sequence

import torch
from torch import Tensor, nn

from .reader import read_checkpoint
from .sources import load_checkpoint

#: What weights may be stored in where a model has floating-point numbers.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: What published checkpoints have beside their model's weights: its mean and std, as buffers of
#: MMEngine before 0.8, and averages of MMDetection 2.
NOT_OF_A_MODEL = ('data_preprocessor.', 'ema_')


class Fit(NamedTuple):
    """How a state dict fits a model, which has then loaded all of it that does.

    Attributes:
        missing (list[str]): What the model has and the state dict lacks.
        mismatched (list[str]): What is there in another shape.
        unexpected (list[str]): What the model has no place for.
    """

    missing: List[str]
    mismatched: List[str]
    unexpected: List[str]


def load_checkpoint_file(path: str) -> Dict[str, Any]:
    """Load a checkpoint on the CPU as weights only, without running code that it may hold.

    Args:
        path (str): A local file.

    Returns:
        dict: The checkpoint, with a 'state_dict' and a 'meta'.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, or holds objects other than tensors, plain containers
            and MMEngine's training state.
    """
    return checked(read_checkpoint(path), path)


def load_checkpoint_from(address: str) -> Dict[str, Any]:
    """The same of a file or an address as in MMEngine's ``load_from``."""
    return checked(load_checkpoint(address), address)


def checked(checkpoint: Any, path: str) -> Dict[str, Any]:
    """A checkpoint that has the parts of one.

    Raises:
        ValueError: In one line, if it has not.
    """
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get('state_dict'), dict):
        raise ValueError(f"{path} is no checkpoint of MMEngine: it has no 'state_dict'")
    if checkpoint.get('meta') is None:
        checkpoint['meta'] = {}
    if not isinstance(checkpoint['meta'], dict):
        raise ValueError(f"{path} is no checkpoint of MMEngine: its 'meta' is no dict")
    return checkpoint


def weights_of(checkpoint: Dict[str, Any], path: str = 'the checkpoint') -> Dict[str, Tensor]:
    """The state dict without the 'module.' that distributed training may have put in front.

    Raises:
        ValueError: If something in it is no weight, or is there twice.
    """
    state = checkpoint['state_dict']
    weights: Dict[str, Tensor] = OrderedDict()
    for key, value in state.items():
        if not isinstance(key, str):
            raise ValueError(f'{path}: the state dict has the key {key!r}, which is no text')
        _check_weight(key, value, path)
        own = re.sub(r'^module\.', '', key)
        if own in weights:
            raise ValueError(f'{path}: the state dict has {own!r} twice, with and without module.')
        weights[own] = value
    metadata = getattr(state, '_metadata', None)
    if metadata is not None:
        if not isinstance(metadata, dict) or not all(
            isinstance(k, str) and isinstance(v, dict) for k, v in metadata.items()
        ):
            raise ValueError(f'{path}: the _metadata of the state dict is none')
        weights._metadata = OrderedDict(  # type: ignore[attr-defined]
            (re.sub(r'^module(\.|$)', '', k), v) for k, v in metadata.items()
        )
    return weights


def load_exactly(model: nn.Module, weights: Dict[str, Tensor], path: str) -> List[str]:
    """Load a state dict that must be finite and have all that the model has.

    Args:
        model (nn.Module): Any model.
        weights (dict[str, Tensor]): The state dict.
        path (str): Where it is from, for messages.

    Returns:
        list[str]: Keys that the model has no place for, but for those of no model.

    Raises:
        ValueError: In one line, if it does not fit.
    """
    own = model.state_dict()
    for key, value in weights.items():
        if not torch.isfinite(value).all():
            raise ValueError(f'{path} holds NaN or infinity in {key!r}; nothing was written')
        layer, _, name = key.rpartition('.')
        place = own.get(key, own.get(f'{layer}.parametrizations.{name}.original'))
        if place is not None and place.is_floating_point() and value.dtype not in FLOATS:
            raise ValueError(f'{path} does not match the config: {key!r} is of {value.dtype}')
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # shapes, or denoisers of another schedule
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f'{path} does not match the config: {lines[-1]}') from error
    missing = _really_missing(model, missing, weights)
    if missing:
        raise ValueError(f'{path} does not match the config: {path} lacks {first_of(missing)}')
    return [key for key in unexpected if not key.startswith(NOT_OF_A_MODEL)]


def load_what_fits(model: nn.Module, weights: Dict[str, Tensor]) -> Fit:
    """Load a state dict as MMEngine does, which goes on whatever is missing, and say what is.

    Raises:
        RuntimeError: If the model refuses the state dict for another reason than shapes.
    """
    mismatched: List[str] = []
    while True:
        try:
            missing, unexpected = model.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            found = re.findall(r'size mismatch for (\S+):', str(error))
            names = {
                *found,
                *(re.sub(r'parametrizations\.(\w+)\.original$', r'\1', k) for k in found),
            }
            rest = OrderedDict((k, v) for k, v in weights.items() if k not in names)
            if len(rest) == len(weights):
                raise
            if hasattr(weights, '_metadata'):
                rest._metadata = weights._metadata  # type: ignore[attr-defined]
            mismatched += found
            weights = rest
        else:
            missing = _really_missing(model, missing, weights)
            return Fit([k for k in missing if k not in mismatched], mismatched, unexpected)


def first_of(keys: Sequence[str]) -> str:
    """The first of some keys, and how many more there are."""
    return f'{keys[0]!r}' + (f' and {len(keys) - 1} more keys' if len(keys) > 1 else '')


def _check_weight(key: str, value: Any, path: str) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f'{path}: {key!r} in the state dict is a {type(value).__name__}')
    kind = None
    if value.is_quantized:
        kind = 'quantized'
    elif getattr(value, 'is_nested', False):
        kind = 'nested'
    elif value.layout is not torch.strided:
        kind = 'sparse'
    elif value.is_meta:
        kind = 'meta'
    elif value.is_floating_point() and value.dtype not in FLOATS:
        kind = str(value.dtype).replace('torch.', '')
    if kind:
        raise ValueError(f'{path}: {key!r} in the state dict is a {kind} tensor, no plain weight')


def _really_missing(
    model: nn.Module, missing: Sequence[str], weights: Dict[str, Tensor]
) -> List[str]:
    """Of the keys that a model reports as missing, those whose values only a checkpoint has."""
    if not missing:
        return []
    # A model may drop keys on purpose and rebuild them (SwinV2's relative positions), and makes
    # its counters and indices by itself.
    dropped = set(model.load_state_dict(model.state_dict(), strict=False).missing_keys)
    made = {n for n, b in model.named_buffers() if not (b.is_floating_point() or b.is_complex())}
    return [key for key in missing if key not in weights and key not in dropped | made]
