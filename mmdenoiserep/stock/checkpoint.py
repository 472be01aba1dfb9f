"""Reading and writing checkpoint files: no code in a file is run, no file is half written."""

import codecs
import collections
import os
import os.path as osp
import pickle
import re
import tempfile
import types
from contextlib import contextmanager
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Sequence

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version
from torch import Tensor, nn


def load_checkpoint_file(path: str) -> Dict[str, Any]:
    """Load a checkpoint on the CPU as weights only, without running code that it may hold.

    Args:
        path (str): A local file.

    Returns:
        dict: The checkpoint, with a 'state_dict'.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, or holds objects other than tensors, plain containers
            and MMEngine's training state.
    """
    if not osp.isfile(path):
        raise FileNotFoundError(f'there is no checkpoint {path}')
    try:
        if digit_version(torch.__version__) >= digit_version('2.6.0'):
            allowed = [*_ALLOWED.values(), (_statistic, 'builtins.getattr')]
            with torch.serialization.safe_globals(allowed):
                checkpoint = torch.load(path, map_location='cpu', weights_only=True)
        else:
            # Older releases cannot be told of further types, and refuse MMEngine's.
            checkpoint = torch.load(path, map_location='cpu', pickle_module=_RESTRICTED_PICKLE)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        # PyTorch's advice around it, to load without `weights_only`, is not for our users.
        found = re.search(r'.*(?:GLOBAL|global|operand).*', str(error))
        reason = (found.group() if found else str(error)).strip().split('\n')[0][:200]
        raise ValueError(f'{path} cannot be loaded as weights only: {reason}') from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get('state_dict'), dict):
        raise ValueError(f"{path} is no checkpoint of MMEngine: it has no 'state_dict'")
    return checkpoint


def weights_of(checkpoint: Dict[str, Any]) -> Dict[str, Tensor]:
    """The state dict without the 'module.' that distributed training may have put in front."""
    return collections.OrderedDict(
        (re.sub(r'^module\.', '', key), value) for key, value in checkpoint['state_dict'].items()
    )


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
        raise ValueError(f'{path} does not match the config: {path} lacks {first_of(missing)}')
    return unexpected


def first_of(keys: Sequence[str]) -> str:
    """The first of some keys, and how many more there are."""
    return f'{keys[0]!r}' + (f' and {len(keys) - 1} more keys' if len(keys) > 1 else '')


@contextmanager
def atomic_write(path: str) -> Iterator[BinaryIO]:
    """Open a file that takes its place under ``path`` only when it is complete."""
    folder = osp.dirname(osp.abspath(path))
    os.makedirs(folder, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f'.{osp.basename(path)}.')
    try:
        with os.fdopen(descriptor, 'wb') as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's files are for their owner only
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _statistic(owner: type, name: str) -> Callable:
    """What ``getattr`` may do in a checkpoint: name a statistic of MMEngine's HistoryBuffer."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'attribute {name!r} of {owner!r} is not allowed')
    return getattr(owner, name)


# What MMEngine's training state (logs, seeds, optimizers) adds to tensors, by pickled name.
_NUMPY = np._core if digit_version(np.__version__) >= digit_version('2.0.0') else np.core
_ALLOWED = {
    ('mmengine.logging.history_buffer', 'HistoryBuffer'): HistoryBuffer,
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
    ('numpy.core.multiarray', '_reconstruct'): _NUMPY.multiarray._reconstruct,
    ('numpy.core.multiarray', 'scalar'): _NUMPY.multiarray.scalar,
    **{('dtype', code): type(np.dtype(code)) for code in ('f8', 'f4', 'i8', 'i4', 'u4')},
    ('_codecs', 'encode'): codecs.encode,
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('collections', 'Counter'): collections.Counter,  # MultiStepLR's milestones
}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name == 'getattr' and module in ('builtins', '__builtin__'):
            return _statistic
        tensor_part = (
            (module == 'torch._utils' and name in ('_rebuild_tensor_v2', '_rebuild_parameter'))
            or (module == 'torch' and name.endswith('Storage'))
            or (module == 'torch' and name in ('Size', 'device'))
            or (module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype))
        )
        if tensor_part:
            return super().find_class(module, name)
        key = (module.replace('numpy._core', 'numpy.core'), name)
        if key not in _ALLOWED:
            raise pickle.UnpicklingError(f'{module}.{name} is not allowed')
        return _ALLOWED[key]


def _refuse_legacy_format(*_: Any, **__: Any) -> None:
    raise pickle.UnpicklingError('it is not in the zip format of torch.save')


_RESTRICTED_PICKLE = types.SimpleNamespace(
    __name__='restricted_pickle', Unpickler=_RestrictedUnpickler, load=_refuse_legacy_format
)
