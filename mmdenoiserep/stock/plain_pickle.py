"""Pickles as data: an interpreter that imports nothing and calls nothing that they name.

A pickle builds objects by naming functions and calling them. Here a name is looked up in a table of
our own makers, and what it stands for elsewhere is never touched: a file can only make plain
values and what the makers make.
"""

import pickletools
from collections import Counter, OrderedDict
from typing import Any, BinaryIO, Callable, Dict, List, Optional, Union

#: What a container may be that a pickle fills.
DICTS = (dict, OrderedDict, Counter)
#: Integers beyond it could be made to collide as keys, by the thousand.
LARGEST_KEY = 2**60


class Refused(ValueError):
    """What a file holds or lacks, in words for the user."""


class Inert:
    """Stands for an object that is of no use here: nothing of it is kept."""


INERT = Inert()


class Maker(Inert):
    """What the name of a function or class stands for: only its instances are ever called.

    Args:
        make (Callable): Called as ``make(machine, *args)`` with what the pickle gives.
    """

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make


class Machine:
    """Runs pickles of one file.

    Args:
        find (Callable): ``find(module, name)`` gives what a name stands for.
        load_persistent (Callable): Gives what an id stands for that the file's container knows.
        fill (Callable): ``fill(machine, object, state)``: what a maker's object takes as state.
        most_objects (int): Containers, makers' objects and references to them that it may make.
        most_bytes (int): Bytes and entries that makers may copy.

    Raises:
        Refused: From :meth:`load`, for what is not served. Other exceptions mean a damaged pickle.
    """

    def __init__(
        self,
        find: Callable[[str, str], Any],
        load_persistent: Callable[[Any], Any],
        fill: Callable[['Machine', Any, Any], None],
        most_objects: int,
        most_bytes: int,
    ) -> None:
        self.find = find
        self.load_persistent = load_persistent
        self.fill = fill
        self.objects_left = most_objects
        self.bytes_left = most_bytes
        self.stack: List[Any] = []
        self.marks: List[int] = []
        self.memo: Dict[int, Any] = {}

    def load(self, file: Union[bytes, BinaryIO]) -> Any:
        """The object of the pickle at the file's position, which moves behind it."""
        self.stack, self.marks, self.memo = [], [], {}
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name in _VALUES:
                self.stack.append(argument)
            elif name == 'STOP':
                return self.stack.pop()
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name not in ('PROTO', 'FRAME'):
                raise Refused(f'torch.save writes no pickle opcode {name}')
        raise EOFError

    def spend(self, copied: int = 0) -> None:
        """Note a new object and what it copies, so that a small file cannot fill the memory."""
        self.objects_left -= 1
        self.bytes_left -= copied
        if self.objects_left < 0 or self.bytes_left < 0:
            raise Refused('it unpacks to much more than its size')

    def push(self, value: Any, copied: int = 0) -> None:
        self.spend(copied)
        self.stack.append(value)

    def pop_mark(self) -> list:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, *kinds: type) -> Any:
        """The object that the next step changes."""
        value = self.stack[-1]
        if type(value) not in kinds:
            raise Refused(f'a {type(value).__name__} cannot be filled')
        return value


def set_items(target: Any, pairs: list) -> None:
    """Put entries into a dict, without those that are of no use."""
    for key, value in zip(pairs[::2], pairs[1::2]):
        check_key(key)
        if not isinstance(value, Inert):
            target[key] = value


def check_key(key: Any, nested: bool = False) -> None:
    """Refuse a key that is no plain value: hashing it might take for ever."""
    if type(key) is tuple and not nested and len(key) <= 16:
        for part in key:
            check_key(part, nested=True)
    elif type(key) is int:
        if abs(key) >= LARGEST_KEY:
            raise Refused(f'{key} is no key')
    elif key is not None and type(key) not in (str, bool, float, bytes):
        raise Refused(f'a {type(key).__name__} is no key')


def _mark(machine: Machine, _: None) -> None:
    machine.marks.append(len(machine.stack))


def _tuple_of(count: Optional[int]) -> Callable:
    def make(machine: Machine, _: None) -> None:
        if count is None:
            items = machine.pop_mark()
        else:
            items = [machine.stack.pop() for _ in range(count)][::-1]
        machine.push(tuple(items))

    return make


def _append(machine: Machine, _: None) -> None:
    value = machine.stack.pop()
    machine.top(list).append(value)


def _appends(machine: Machine, _: None) -> None:
    items = machine.pop_mark()
    machine.top(list).extend(items)


def _set_item(machine: Machine, _: None) -> None:
    pair = [machine.stack.pop() for _ in range(2)][::-1]
    set_items(_filled(machine), pair)


def _set_items(machine: Machine, _: None) -> None:
    pairs = machine.pop_mark()
    set_items(_filled(machine), pairs)


def _filled(machine: Machine) -> dict:
    # What an inert object is given goes nowhere.
    return {} if isinstance(machine.stack[-1], Inert) else machine.top(*DICTS)


def _add_items(machine: Machine, _: None) -> None:
    items = machine.pop_mark()
    for item in items:
        check_key(item)
    machine.top(set).update(items)


def _frozen_set(machine: Machine, _: None) -> None:
    items = machine.pop_mark()
    for item in items:
        check_key(item)
    machine.push(frozenset(items))


def _put(machine: Machine, index: Optional[int]) -> None:
    machine.spend()
    machine.memo[len(machine.memo) if index is None else index] = machine.stack[-1]


def _get(machine: Machine, index: int) -> None:
    machine.stack.append(machine.memo[index])


def _global(machine: Machine, argument: str) -> None:
    module, name = argument.split(' ', 1)
    machine.stack.append(machine.find(module, name))


def _stack_global(machine: Machine, _: None) -> None:
    module, name = [machine.stack.pop() for _ in range(2)][::-1]
    machine.stack.append(machine.find(str(module), str(name)))


def _reduce(machine: Machine, _: None) -> None:
    args = machine.stack.pop()
    maker = machine.stack.pop()
    machine.push(make(machine, maker, args))


def make(machine: Machine, maker: Any, args: Any) -> Any:
    """What a maker makes of the arguments in a file."""
    if not isinstance(args, tuple):
        raise Refused('arguments that are no tuple')
    if isinstance(maker, Maker):
        return maker.make(machine, *args)
    if isinstance(maker, Inert):
        return INERT
    raise Refused(f'a {type(maker).__name__} is called')


def _new_object(machine: Machine, _: None) -> None:
    _reduce(machine, None)  # __new__, whose arguments are those of a call


def _new_object_ex(machine: Machine, _: None) -> None:
    machine.stack.pop()  # keyword arguments: of what is inert
    _reduce(machine, None)


def _build(machine: Machine, _: None) -> None:
    state = machine.stack.pop()
    machine.fill(machine, machine.stack[-1], state)


def _persistent(machine: Machine, _: None) -> None:
    machine.push(machine.load_persistent(machine.stack.pop()))


#: Opcodes whose argument is the value.
_VALUES = frozenset(
    [
        'BININT',
        'BININT1',
        'BININT2',
        'LONG1',
        'LONG4',
        'BINFLOAT',
        'BINUNICODE',
        'SHORT_BINUNICODE',
        'BINUNICODE8',
        'BINBYTES',
        'SHORT_BINBYTES',
        'BINBYTES8',
        'BYTEARRAY8',
        'BINSTRING',
        'SHORT_BINSTRING',
    ]
)
_STEPS: Dict[str, Callable[[Machine, Any], None]] = {
    'NONE': lambda machine, _: machine.stack.append(None),
    'NEWTRUE': lambda machine, _: machine.stack.append(True),
    'NEWFALSE': lambda machine, _: machine.stack.append(False),
    'EMPTY_TUPLE': lambda machine, _: machine.stack.append(()),
    'EMPTY_LIST': lambda machine, _: machine.push([]),
    'EMPTY_DICT': lambda machine, _: machine.push({}),
    'EMPTY_SET': lambda machine, _: machine.push(set()),
    'MARK': _mark,
    'TUPLE': _tuple_of(None),
    'TUPLE1': _tuple_of(1),
    'TUPLE2': _tuple_of(2),
    'TUPLE3': _tuple_of(3),
    'LIST': lambda machine, _: machine.push(machine.pop_mark()),
    'APPEND': _append,
    'APPENDS': _appends,
    'SETITEM': _set_item,
    'SETITEMS': _set_items,
    'ADDITEMS': _add_items,
    'FROZENSET': _frozen_set,
    'BINPUT': _put,
    'LONG_BINPUT': _put,
    'MEMOIZE': _put,
    'BINGET': _get,
    'LONG_BINGET': _get,
    'GLOBAL': _global,
    'STACK_GLOBAL': _stack_global,
    'REDUCE': _reduce,
    'NEWOBJ': _new_object,
    'NEWOBJ_EX': _new_object_ex,
    'BUILD': _build,
    'BINPERSID': _persistent,
}
