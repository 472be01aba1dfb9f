"""Numbers in MMEngine's training state: NumPy's, and the history of what was logged.

Arrays are made of bytes in a file, and never of NumPy's own reconstruction, which trusts a file.
"""

from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer

from .plain_pickle import INERT, Inert, Machine, Refused

#: Longest array of logged values that is taken: MMEngine's own limit.
LONGEST_HISTORY = 1_000_000
#: NumPy's number types that are taken.
NUMBERS = ('i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8')


class NumberType(Inert):
    """NumPy's description of a number."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = '='

    def read(self, data: bytes) -> np.ndarray:
        """The numbers in some bytes, in an array of their own."""
        if self.code not in NUMBERS:
            raise Refused(f'numbers of the type {self.code!r}')
        return np.frombuffer(data, self.order + self.code).copy()


def fill(machine: Machine, target: Any, state: Any) -> bool:
    """Give an object of this file its state; whether it is one."""
    if isinstance(target, NumberType):
        fill_number_type(target, state)
    elif type(target) is np.ndarray:
        fill_array(machine, target, state)
    elif type(target) is HistoryBuffer:
        fill_history(target, state)
    else:
        return False
    return True


def encode(machine: Machine, text: str, encoding: str = 'latin1') -> bytes:
    machine.spend(len(text))
    if encoding not in ('latin1', 'latin-1'):
        raise Refused(f'bytes in {str(encoding)[:20]!r}')
    return text.encode('latin1')


def number_type(machine: Machine, code: Any = '', *_: Any) -> NumberType:
    return NumberType(str(code)[:8])


def number(machine: Machine, kind: Any, data: Any = b'') -> Any:
    if not isinstance(kind, NumberType) or kind.code not in NUMBERS:
        return INERT
    (number,) = kind.read(_bytes(data))
    return number.item()


def array(machine: Machine, *_: Any) -> np.ndarray:
    return np.empty(0)


def history(machine: Machine, *_: Any) -> HistoryBuffer:
    return HistoryBuffer()


def _bytes(data: Any) -> bytes:
    # Python 2 wrote its bytes as text.
    return data.encode('latin1') if isinstance(data, str) else bytes(memoryview(data))


def fill_number_type(target: NumberType, state: Any) -> None:
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else '='
    target.order = '=' if order == '|' else order
    fields = [part for part in state[2:5] if part is not None]
    if target.order not in ('<', '>', '=') or fields:
        target.code = 'fields'


def fill_array(machine: Machine, target: np.ndarray, state: Any) -> None:
    _, shape, kind, by_column, data = state
    if not isinstance(kind, NumberType) or kind.code not in NUMBERS:
        return  # objects or text: it stays empty
    data = _bytes(data)
    machine.spend(len(data))
    values = kind.read(data)
    if not all(type(length) is int and length >= 0 for length in shape):
        raise Refused('an array of an impossible shape')
    values = values.reshape(shape, order='F' if by_column is True else 'C')
    # In place: others may refer to the array that has no values yet.
    own = (1, values.shape, values.dtype, False, values.tobytes())
    target.__setstate__(own)  # type: ignore[arg-type]  # NumPy's stub wants its own bool


def fill_history(target: HistoryBuffer, state: Any) -> None:
    values, counts = (state.get(f'_{kind}_history') for kind in ('log', 'count'))
    arrays = [a for a in (values, counts) if isinstance(a, np.ndarray) and a.ndim == 1]
    if len(arrays) == 2 and len(values) == len(counts):
        target._log_history, target._count_history = arrays
    longest = state.get('max_length')
    if type(longest) is int and 0 < longest <= LONGEST_HISTORY:
        target.max_length = longest
