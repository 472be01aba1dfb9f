"""What the names in a checkpoint stand for: tensors, plain values and MMEngine's training state."""

from collections import Counter, OrderedDict
from functools import cached_property
from typing import Any, Callable, Dict, Tuple

import torch
from torch import Tensor, nn

from . import numbers
from .plain_pickle import INERT, Inert, Machine, Maker, Refused, check_key, make, set_items

#: Of a tensor: what PyTorch's operators take.
MOST_DIMENSIONS = 64
NO_BOOLEAN = 'a boolean tensor of other numbers than 0 and 1'


class StorageType(Inert):
    """The type of a storage; ``dtype`` is None where the tensor on it says its own."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype


class Storage(Inert):
    """Bytes of tensors."""

    def __init__(self, raw: Tensor, dtype: Any) -> None:
        self.raw = raw  # uint8
        self.dtype = dtype
        self.is_read = False  # legacy files have the bytes behind all tensors

    @cached_property
    def is_boolean(self) -> bool:
        return not self.is_read or is_boolean(self.raw)


def find(module: str, name: str) -> Any:
    """What a name in a checkpoint stands for. Nothing is imported.

    Raises:
        Refused: If it is none of what checkpoints are made of.
    """
    module = module.replace('__builtin__', 'builtins').replace('numpy._core', 'numpy.core')
    if (module, name) in _MAKERS:
        return _MAKERS[module, name]
    if (module, name) in _INERT or module.split('.')[0] in _INERT_PACKAGES:
        return INERT
    if module in ('torch', 'torch.cuda', 'torch.storage') and name.endswith('Storage'):
        if name not in _STORAGES:
            raise Refused(f'a tensor of {module}.{name}, a type that is not served')
        return StorageType(_STORAGES[name])
    if module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype):
        return getattr(torch, name)
    for part, kind in _OTHER_TENSORS.items():
        if module.startswith('torch') and part in name:
            raise Refused(f'a {kind} tensor ({module}.{name})')
    raise Refused(f'{module}.{name}, which is none of what weights are made of')


def fill(machine: Machine, target: Any, state: Any) -> None:
    """Give an object its state, as much of it as is of use.

    Raises:
        Refused: If it should have none, or another.
    """
    if isinstance(target, OrderedDict):
        if isinstance(state, dict) and '_metadata' in state:
            if not isinstance(state['_metadata'], dict):
                raise Refused('_metadata that is no dict')
            vars(target)['_metadata'] = state['_metadata']
    elif not numbers.fill(machine, target, state) and not isinstance(
        target, (Inert, Tensor, dict, set)
    ):
        raise Refused(f'a {type(target).__name__} with a state')


def is_boolean(raw: Tensor) -> bool:
    """Whether all bytes are 0 or 1."""
    return not raw.numel() or raw.max().item() <= 1


def tensor_on(storage: Any, dtype: Any, offset: int, size: Any, stride: Any) -> Tensor:
    """A tensor on a storage.

    Raises:
        Refused: If it reaches out of the storage, or repeats its values.
    """
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise Refused('a tensor on no storage')
    if (
        len(size) > MOST_DIMENSIONS
        or len(size) != len(stride)
        or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride))
    ):
        raise Refused('a tensor of an impossible shape')
    item = torch.empty((), dtype=dtype, device='cpu').element_size()
    count, last = 1, offset
    for length, step in zip(size, stride):
        count *= length
        last += (length - 1) * step
    there = storage.raw.numel()
    if (count and (last + 1) * item > there) or count * item > max(there, _SMALL):
        raise Refused('a tensor that reaches behind its storage')
    if dtype is torch.bool and not storage.is_boolean:
        raise Refused(NO_BOOLEAN)
    with torch.no_grad():
        out = torch.empty(0, dtype=dtype, device='cpu')
        return out.set_(storage.raw.untyped_storage(), offset, tuple(size), tuple(stride))


def _tensor(
    machine: Machine,
    storage: Any,
    offset: int,
    size: tuple,
    stride: tuple,
    requires_grad: bool = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    out = tensor_on(storage, getattr(storage, 'dtype', None), offset, size, stride)
    return out.requires_grad_(requires_grad is True)


def _tensor_of_type(
    machine: Machine,
    storage: Any,
    offset: int,
    size: tuple,
    stride: tuple,
    requires_grad: bool,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    return tensor_on(storage, dtype, offset, size, stride).requires_grad_(requires_grad is True)


def _parameter(
    machine: Machine, data: Any, requires_grad: bool = True, hooks: Any = None, state: Any = None
) -> nn.Parameter:
    if not isinstance(data, Tensor):
        raise Refused('a parameter that is no tensor')
    return nn.Parameter(data.detach(), requires_grad is True)


def _from_type(machine: Machine, function: Any, kind: Any, args: Any, state: Any) -> Any:
    return make(machine, function, args)  # a tensor with attributes, which are of no use here


def _ordered_dict(machine: Machine, pairs: Any = ()) -> OrderedDict:
    out: OrderedDict = OrderedDict()
    machine.spend(len(pairs))
    set_items(out, [part for key, value in pairs for part in (key, value)])
    return out


def _default_dict(machine: Machine, factory: Any = None) -> dict:
    return {}


def _counter(machine: Machine, counts: Any = None) -> Counter:
    out: Counter = Counter()
    machine.spend(len(counts or {}))
    for key, count in (counts or {}).items():
        if type(count) is int:
            out[key] = count
    return out


def _set(machine: Machine, items: Any = ()) -> set:
    machine.spend(len(items))
    for item in items:
        check_key(item)
    return set(items)


def _size(machine: Machine, lengths: Any = ()) -> torch.Size:
    machine.spend(len(lengths))
    return torch.Size(lengths)


def _inert(machine: Machine, *_: Any) -> Inert:
    return INERT


_SMALL = 256  # bytes up to which a tensor may repeat its values
_STORAGES = dict(
    DoubleStorage=torch.float64,
    FloatStorage=torch.float32,
    HalfStorage=torch.float16,
    BFloat16Storage=torch.bfloat16,
    LongStorage=torch.int64,
    IntStorage=torch.int32,
    ShortStorage=torch.int16,
    CharStorage=torch.int8,
    ByteStorage=torch.uint8,
    BoolStorage=torch.bool,
    ComplexFloatStorage=torch.complex64,
    ComplexDoubleStorage=torch.complex128,
    UntypedStorage=None,
)
_OTHER_TENSORS = dict(
    sparse='sparse', qtensor='quantized', meta='meta', nested='nested', wrapper='subclassed'
)
#: Whose objects are in training states, and of no use when it is resumed.
_INERT_PACKAGES = {'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'addict'}
_INERT = {
    ('builtins', 'getattr'),  # names HistoryBuffer's methods
    ('builtins', 'slice'),
    ('builtins', 'range'),
    ('builtins', 'object'),
    ('copyreg', '_reconstructor'),
    ('torch.nn.parameter', 'Parameter'),
    ('torch.nn.parameter', 'Buffer'),
    ('torch', 'Tensor'),
}
_FUNCTIONS: Dict[Tuple[str, str], Callable[..., Any]] = {
    ('torch._utils', '_rebuild_tensor'): _tensor,
    ('torch._utils', '_rebuild_tensor_v2'): _tensor,
    ('torch._utils', '_rebuild_tensor_v3'): _tensor_of_type,
    ('torch._utils', '_rebuild_parameter'): _parameter,
    ('torch._utils', '_rebuild_parameter_with_state'): _parameter,
    ('torch._tensor', '_rebuild_from_type_v2'): _from_type,
    ('torch', 'Size'): _size,
    ('torch', 'device'): _inert,
    ('collections', 'OrderedDict'): _ordered_dict,
    ('collections', 'defaultdict'): _default_dict,
    ('collections', 'Counter'): _counter,
    ('builtins', 'set'): _set,
    ('_codecs', 'encode'): numbers.encode,
    ('numpy', 'dtype'): numbers.number_type,
    ('numpy.core.multiarray', '_reconstruct'): numbers.array,
    ('numpy.core.multiarray', 'scalar'): numbers.number,
    ('mmengine.logging.history_buffer', 'HistoryBuffer'): numbers.history,
}
_MAKERS = {key: Maker(function) for key, function in _FUNCTIONS.items()}
