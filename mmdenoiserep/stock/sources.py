"""Where checkpoints come from: files and MMEngine's addresses, all read as data."""

import io
import os
import os.path as osp
from typing import Any, Dict, Optional
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank
from mmengine.fileio import get_file_backend
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_tables

from .reader import read_checkpoint, read_stream

#: Every kind of address that MMEngine knows; a path is the last.
SCHEMES = (
    'http://',
    'https://',
    'modelzoo://',
    'torchvision://',
    'open-mmlab://',
    'openmmlab://',
    'mmcls://',
    'pavi://',
    r'(\S+\:)?s3://',
    r'(\S+\:)?petrel://',
    '',
)


def load_checkpoint(address: str, map_location: Any = None) -> Any:
    """The object in a checkpoint, on the CPU; what its address names is downloaded.

    Args:
        address (str): A path, or an address as in MMEngine's ``load_from``.
        map_location (Any): Not used: MMEngine's loaders have it.

    Raises:
        OSError: If it is not there.
        ValueError: In one line, as :func:`.reader.read_checkpoint`.
    """
    scheme, _, name = address.partition('://')
    if not name:
        return _without_code(read_checkpoint(osp.expanduser(address)))
    if scheme in ('http', 'https'):
        return _without_code(read_checkpoint(_downloaded(address)))
    if scheme.split(':')[-1] in ('s3', 'petrel'):
        backend = get_file_backend(address, backend_args=dict(backend='petrel'))
        return _without_code(read_stream(io.BytesIO(backend.get(address)), address))
    if scheme in ('modelzoo', 'torchvision'):
        return load_checkpoint(_entry(mmengine_tables.get_torchvision_models(), name, address))
    if scheme in ('open-mmlab', 'openmmlab'):
        name = mmengine_tables.get_deprecated_model_names().get(name, name)
        return load_checkpoint(_entry(mmengine_tables.get_external_models(), name, address))
    if scheme == 'mmcls':
        whole = load_checkpoint(_entry(mmengine_tables.get_mmcls_models(), name, address))
        return _backbone_of(whole)
    raise ValueError(f'{address}: addresses of {scheme}:// are not served; download the file first')


def read_weights_only() -> None:
    """Make MMEngine read every checkpoint of this process as data, whatever it would do itself."""
    for prefix in SCHEMES:
        CheckpointLoader.register_scheme(prefix, loader=load_from_weights_only, force=True)


def load_from_weights_only(filename: str, map_location: Any = None) -> Any:
    """:func:`load_checkpoint` under a name that MMEngine's log shows."""
    return load_checkpoint(filename, map_location)


def _without_code(checkpoint: Any) -> Any:
    # MMEngine's `resume` runs `meta['config']` as Python. Its own checkpoints have none.
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    if isinstance(meta, dict):
        meta.pop('config', None)
    return checkpoint


def _downloaded(address: str) -> str:
    """The file of an address in PyTorch's cache, where MMEngine keeps it too."""
    folder = osp.join(torch.hub.get_dir(), 'checkpoints')
    path = osp.join(folder, osp.basename(urlparse(address).path))
    if osp.basename(path) in ('', '.', '..'):
        raise ValueError(f'{address} names no file')
    failure: Optional[OSError] = None
    if get_rank() == 0:
        failure = _download(address, path)
    barrier()
    if get_rank() != 0:  # on another machine
        failure = _download(address, path)
    if failure is not None:
        raise OSError(f'{address} cannot be downloaded: {failure}') from failure
    return path


def _download(address: str, path: str) -> Optional[OSError]:
    if osp.isfile(path):
        return None
    try:
        os.makedirs(osp.dirname(path), exist_ok=True)
        torch.hub.download_url_to_file(address, path, progress=os.isatty(0))
    except OSError as error:
        return error
    return None


def _entry(table: Dict[str, str], name: str, address: str) -> str:
    if name not in table:
        raise ValueError(f'{address}: MMEngine knows no such model')
    return table[name]


def _backbone_of(checkpoint: Any) -> dict:
    state = checkpoint.get('state_dict', checkpoint)
    prefix = 'backbone.'
    kept = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    return dict(state_dict=kept)
