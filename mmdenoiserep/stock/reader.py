"""Reading checkpoint files as data: no code in a file is run, on any release of PyTorch.

What is read: tensors, plain values, dicts, lists, tuples and sets, and of MMEngine's training state
what resuming needs (logged values, milestones). The rest of that state becomes nothing; anything
else is refused. Memory is bounded by the file's size.
"""

import os
import os.path as osp
import stat
import zipfile
from typing import Any, BinaryIO

import torch

from .archives import LEGACY, ZIP, read_legacy, read_zip
from .plain_pickle import Inert, Refused

#: How other files begin, and what they are.
_OTHERS = (
    (b'\x80', 'it is a pickle, but not of torch.save'),
    (b'\x1f\x8b', 'it is compressed (gzip); unpack it first'),
    (b'\x89HDF', 'it is an HDF5 file'),
    (b'\x89PNG', 'it is a picture'),
    (b'\xff\xd8', 'it is a picture'),
    (b'PK', 'it is an empty or damaged zip archive'),
    (b'version https://git-lfs', 'it is a pointer of Git LFS, not the file; run git lfs pull'),
)


class _Trust:
    everything = False


def trust_checkpoints(trust: bool) -> None:
    """Let this process run what checkpoints hold, or (``False``) read them as data again."""
    _Trust.everything = trust


def trusted() -> bool:
    """Whether this process runs what checkpoints hold."""
    return _Trust.everything


def read_checkpoint(path: str) -> Any:
    """The object in a file of torch.save, on the CPU.

    Args:
        path (str): A local file, of any release of PyTorch since 0.4.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: In one line that names the file, if it is no checkpoint, is damaged or holds
            something that is not read.
    """
    if osp.isdir(path):
        raise ValueError(f'{path} is a folder, not a checkpoint')
    if not osp.exists(path):
        raise FileNotFoundError(f'there is no checkpoint {path}')
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f'{path} is no file, but a pipe or a device')
    if _Trust.everything:
        return _read_by_torch(path)
    with open(path, 'rb') as file:
        return read_stream(file, path)


def read_stream(file: BinaryIO, path: str) -> Any:
    """The same of a file that is open, or in memory; ``path`` is for messages."""
    try:
        return _read(file)
    except Refused as error:
        reason = str(error)
    except zipfile.BadZipFile as error:
        reason = f'it is damaged, or was saved without checksums ({error})'
    except RecursionError:
        reason = 'it is nested too deeply'
    except MemoryError:
        reason = 'there is not enough memory for it'
    except Exception as error:  # whatever a damaged file leads to
        words = str(error).strip().split('\n')[0][:100]
        reason = f'it is damaged ({type(error).__name__}{": " if words else ""}{words})'
    # A file's own words must not be more than a part of a line.
    reason = ''.join(c if c.isprintable() else ' ' for c in reason)[:300]
    raise ValueError(f'{path} cannot be loaded as weights only: {reason}')


def _read(file: BinaryIO) -> Any:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    begin = file.read(512)
    file.seek(0)
    if begin.startswith(ZIP):
        out = read_zip(file, size)
    elif begin[:1] == b'\x80' and LEGACY in begin[:32]:
        out = read_legacy(file, size)
    else:
        raise Refused(_kind_of(begin))
    if isinstance(out, Inert):
        raise Refused('it holds nothing')
    return out


def _kind_of(begin: bytes) -> str:
    """What a file is that torch.save has not written, by its first bytes."""
    if not begin:
        return 'it is empty'
    if begin[8:9] == b'{':
        return 'it is a safetensors file; load it with safetensors and torch.save its state_dict'
    if begin[257:262] == b'ustar':
        return 'it is a tar archive'
    if begin.lstrip()[:1] == b'<':
        return 'it is a web page (HTML or XML): the download has failed'
    for start, words in _OTHERS:
        if begin.startswith(start):
            return words
    if not begin.strip(b'\0'):
        return 'it holds zeros only: a download or a copy has failed'
    try:
        begin[:200].decode('ascii')
    except UnicodeDecodeError:
        return 'it is in no format of torch.save'
    return 'it is a text file'


def _read_by_torch(path: str) -> Any:
    try:
        return torch.load(path, map_location='cpu', weights_only=False)
    except OSError:
        raise
    except Exception as error:  # whatever the file does
        words = str(error).strip().split('\n')[0][:200]
        raise ValueError(f'{path} cannot be loaded: {type(error).__name__}: {words}') from error
