"""What files are images; how files are written: none is half written, and a checkpoint never stands
beside another's config."""

import os
import os.path as osp
import tempfile
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Callable, Dict, Iterator, Optional, Sequence

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

#: Of images, in any case.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.tif', '.tiff', '.webp')
#: Called between the steps of a commit, with their names. Tests end the process in it.
after_step: Callable[[str], None] = lambda name: None  # noqa: E731


def check_free(
    paths: Sequence[str], force: bool = False, inputs: Optional[Dict[str, str]] = None
) -> None:
    """Refuse to write to places that are taken or cannot be written to, before any work is done.

    Args:
        paths (Sequence[str]): The files to write.
        force (bool): Whether files that exist may be replaced. Defaults to False.
        inputs (dict[str, str], optional): What is read, by path: 'checkpoint', say. It may not be
            replaced, whatever it is called.

    Raises:
        FileExistsError: If a file exists.
        OSError: If a folder cannot be written to.
        ValueError: If a path is a folder or an input.
    """
    for path in paths:
        for source, kind in (inputs or {}).items():
            if is_same_file(path, source):
                raise ValueError(f'{path} is the {kind} itself; give another name')
        check_writable(path)
        if osp.lexists(path) and not force:
            raise FileExistsError(f'{path} exists already; --force (force=True) replaces it')


def check_writable(path: str) -> None:
    """Refuse a file whose folder cannot be written to or made.

    Raises:
        OSError: In one line.
        ValueError: If it is a folder.
    """
    if osp.isdir(path):
        raise ValueError(f'{path} is a folder; give the name of a file')
    folder = osp.dirname(osp.abspath(path))
    while not osp.exists(folder):
        folder = osp.dirname(folder)
    if not osp.isdir(folder):
        raise NotADirectoryError(f'{path} cannot be written: {folder} is no folder')
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f'{path} cannot be written: no permission to write to {folder}')


def is_same_file(path: str, other: str) -> bool:
    """Whether two names are of one file, through whatever links."""
    if osp.realpath(path) == osp.realpath(other):
        return True
    return osp.exists(path) and osp.exists(other) and osp.samefile(path, other)


@contextmanager
def atomic_write(path: str) -> Iterator[BinaryIO]:
    """Open a file that takes its place under ``path`` only when it is complete and on the disk.

    Not inside another for the same folder: one writes there at a time.
    """
    with _only_writer(path), _temporary(path) as (file, temporary):
        yield file
        _finish(file, temporary)
        os.replace(temporary, path)
        _sync_folder(path)


def write_pair(
    checkpoint: str,
    config: str,
    text: str,
    save: Callable[[BinaryIO], Any],
    force: bool = False,
) -> None:
    """Write a checkpoint and its config: killed at any moment, the new pair or the old is there.

    The one step that counts is the renaming of the checkpoint. It must hold ``text`` itself, so
    that it is complete without the config beside it. A config that differs is put aside before
    that step, and the new one appears after it: what was cut short in between is a checkpoint
    without its file of a config, never with another's, and :func:`mend_pair` writes that file.

    Args:
        checkpoint (str): Where the checkpoint goes.
        config (str): Where its config goes.
        text (str): The config.
        save (Callable): Called with a file, to write the checkpoint.
        force (bool): Whether files that exist may be replaced. Defaults to False.

    Raises:
        FileExistsError: If a file exists, and was perhaps written in the meantime.
    """
    with _only_writer(checkpoint, config), _temporary(checkpoint) as (file, new), _temporary(
        config
    ) as (config_file, new_config):
        after_step('temporaries made')
        try:
            config_file.write(text.encode())
            _finish(config_file, new_config)
            after_step('config written')
            save(file)
            after_step('checkpoint written')
            _finish(file, new)
        except (OSError, RuntimeError) as error:  # PyTorch's, on a full disk
            raise OSError(f'{checkpoint} cannot be written; is the disk full?') from error
        after_step('checkpoint finished')
        check_free([checkpoint, config], force)
        if osp.lexists(config) and _text_of(config) != text:
            os.replace(config, _aside(config))
            after_step('old config put aside')
        os.replace(new, checkpoint)
        after_step('checkpoint renamed')
        os.replace(new_config, config)
        after_step('config renamed')
        _remove(_aside(config))
        _sync_folder(checkpoint)
        after_step('folder synced')


def mend_pair(checkpoint: str, config: str, text_in: Callable[[str], Optional[str]]) -> None:
    """Finish what :func:`write_pair` had no time for, and remove what it left.

    Args:
        checkpoint (str): A checkpoint that may be there.
        config (str): Its config, which may be missing.
        text_in (Callable): The config that a checkpoint holds, or None.
    """
    if not osp.isdir(osp.dirname(osp.abspath(checkpoint))):
        return
    with _only_writer(checkpoint, config):
        if osp.isfile(checkpoint) and not osp.lexists(config):
            text = text_in(checkpoint)
            with suppress(OSError), _temporary(config) as (file, temporary):
                if text is not None:
                    file.write(text.encode())
                    _finish(file, temporary)
                    os.replace(temporary, config)
                elif osp.lexists(_aside(config)):  # of a checkpoint that does not hold its config
                    os.replace(_aside(config), config)
        _remove(_aside(config))


@contextmanager
def _only_writer(*paths: str) -> Iterator[None]:
    """Be the only one who writes to a folder in this way, and remove what the killed left."""
    folder = osp.dirname(osp.abspath(paths[0]))
    os.makedirs(folder, exist_ok=True)
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: what is there may be another's
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for path in paths:
                _sweep(path)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _temporary(path: str) -> Iterator[Any]:
    """A file beside ``path``, removed at the end if it is still there."""
    folder, name = osp.split(osp.abspath(path))
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f'.{name}.', suffix='.part')
    try:
        with os.fdopen(descriptor, 'wb') as file:
            yield file, temporary
    finally:
        _remove(temporary)


def _aside(config: str) -> str:
    folder, name = osp.split(osp.abspath(config))
    return osp.join(folder, f'.{name}.old')


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def _finish(file: BinaryIO, temporary: str) -> None:
    file.flush()
    os.fsync(file.fileno())
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)  # mkstemp's files are for their owner only


def _sweep(path: str) -> None:
    """Remove the temporary files of ``path``."""
    folder, name = osp.split(osp.abspath(path))
    for entry in os.listdir(folder):
        if entry.startswith(f'.{name}.') and entry.endswith('.part'):
            os.unlink(osp.join(folder, entry))


def _text_of(path: str) -> Optional[str]:
    try:
        with open(path, encoding='utf-8') as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return None


def _sync_folder(path: str) -> None:
    with suppress(OSError):  # not every file system can
        descriptor = os.open(osp.dirname(osp.abspath(path)), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
