"""The two formats of torch.save: a zip archive since PyTorch 1.6, a row of pickles before."""

import zipfile
from typing import Any, BinaryIO, Dict, Set

import torch
from torch import Tensor

from .makers import NO_BOOLEAN, Storage, StorageType, fill, find, is_boolean
from .plain_pickle import Machine, Refused

ZIP = b'PK\x03\x04'
#: What every file of before 1.6 begins with: the pickle of a number that stands for the format.
LEGACY = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
#: Objects that any file may hold; larger files more (a tensor comes to about fifteen).
OBJECTS = 400_000
OBJECTS_PER_BYTE = 1 / 64
CHUNK = 1 << 20


def read_zip(file: BinaryIO, size: int) -> Any:
    """What torch.save has written since PyTorch 1.6.

    Raises:
        Refused: If it is none of it. Other exceptions mean that it is damaged.
    """
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise Refused('it is cut off or damaged: its list of contents is missing') from None
    records = {info.filename: info for info in archive.infolist()}
    names = [name for name in records if name.count('/') == 1 and name.endswith('/data.pkl')]
    if len(names) != 1:
        raise Refused('it is a zip archive, but not of torch.save')
    folder = names[0][: -len('data.pkl')]
    if f'{folder}constants.pkl' in records:
        raise Refused('it is a TorchScript archive, which holds code; save its state_dict')
    for info in records.values():
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise Refused(f'{info.filename!r} in it is compressed, which torch.save does not do')
    if len(records) < len(archive.infolist()) or sum(i.file_size for i in records.values()) > size:
        raise Refused('its contents overlap')
    order = records.get(f'{folder}byteorder')
    if order is not None and archive.read(order) != b'little':
        raise Refused('it is from a big-endian machine')
    storages: Dict[str, Tensor] = {}

    def load_persistent(key: Any) -> Storage:
        kind, name, count = _storage_key(key, 5)
        if name not in storages:
            info = records.get(f'{folder}data/{name}')
            if info is None:
                raise Refused(f'the data of a tensor ({name[:40]!r}) are missing')
            with archive.open(info) as record:
                storages[name] = _read(record, info.file_size)
        out = _storage(kind, storages[name], count)
        out.is_read = True
        return out

    return _machine(load_persistent, size).load(archive.read(names[0]))


def read_legacy(file: BinaryIO, size: int) -> Any:
    """What torch.save wrote before PyTorch 1.6. Raises as :func:`read_zip` does."""
    bounded: Any = _Bounded(file, size)
    storages: Dict[str, Tensor] = {}
    items: Dict[str, int] = {}
    booleans: Set[str] = set()

    def load_persistent(key: Any) -> Storage:
        kind, name, count = _storage_key(key, 6)
        if key[5] is not None:
            raise Refused('it is of a PyTorch before 0.4')
        if kind.dtype is None:
            raise Refused('a storage without a type')
        items[name] = _item_size(kind.dtype)
        if kind.dtype is torch.bool:
            booleans.add(name)
        if name not in storages:
            needed = count * items[name] + sum(raw.numel() for raw in storages.values())
            if needed > size:
                raise Refused('it is cut off: it is smaller than its tensors')
            storages[name] = torch.empty(count * items[name], dtype=torch.uint8, device='cpu')
        return _storage(kind, storages[name], count)

    machine = _machine(load_persistent, size)
    _magic, _version, system = (machine.load(bounded) for _ in range(3))
    if system.get('little_endian') is not True:
        raise Refused('it is from a big-endian machine')
    out = machine.load(bounded)
    names = machine.load(bounded)
    if not isinstance(names, list) or set(names) != set(storages):
        raise Refused('the data of a tensor are missing')
    for name in names:
        raw = storages[name]
        count = int.from_bytes(bounded.read(8), 'little')
        if count * items[name] != raw.numel():
            raise Refused('a tensor has another size than its data')
        _read_into(raw, bounded)
        if name in booleans and not is_boolean(raw):
            raise Refused(NO_BOOLEAN)
    return out


class _Bounded:
    """A file that is never asked for more than it has."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size

    def read(self, count: int) -> bytes:
        return self.file.read(min(count, self.size - self.file.tell()))

    def readline(self) -> bytes:
        return self.file.readline(4096)


def _machine(load_persistent: Any, size: int) -> Machine:
    return Machine(find, load_persistent, fill, OBJECTS + int(size * OBJECTS_PER_BYTE), size)


def _storage_key(key: Any, length: int) -> tuple:
    if not isinstance(key, tuple) or len(key) != length or key[0] != 'storage':
        raise Refused('a reference to something other than the data of a tensor')
    _, kind, name, _, count = key[:5]
    if not isinstance(kind, StorageType) or type(name) is not str:
        raise Refused('a reference to something other than the data of a tensor')
    if type(count) is not int or count < 0:
        raise Refused('a tensor of an impossible size')
    return kind, name, count


def _storage(kind: StorageType, raw: Tensor, count: int) -> Storage:
    if count * (1 if kind.dtype is None else _item_size(kind.dtype)) != raw.numel():
        raise Refused('a tensor has another size than its data')
    return Storage(raw, kind.dtype)


def _item_size(dtype: torch.dtype) -> int:
    return torch.empty((), dtype=dtype, device='cpu').element_size()


def _read(record: Any, size: int) -> Tensor:
    raw = torch.empty(size, dtype=torch.uint8, device='cpu')
    _read_into(raw, record)
    if record.read(1):  # and let the archive compare its checksum
        raise Refused('the data of a tensor are longer than they say')
    return raw


def _read_into(raw: Tensor, file: Any) -> None:
    target = raw.numpy().data
    done = 0
    while done < len(target):
        part: bytes = file.read(min(CHUNK, len(target) - done))
        if not part:
            raise Refused('it is cut off')
        target[done : done + len(part)] = part
        done += len(part)
