"""Writing files whole or not at all."""

import os
import tempfile
from contextlib import contextmanager
from typing import BinaryIO, Iterator


@contextmanager
def atomic_write(path: str) -> Iterator[BinaryIO]:
    """Open a file that takes its place under ``path`` only when it is complete."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f'.{os.path.basename(path)}.')
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
