"""Checkpoint files that torch.save would not write, and the tools in this process."""

import io
import runpy
import struct
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from tools import TOOLS, environment

EMPTY = b'}X\x0a\x00\x00\x00state_dict}s'  # the opcodes of dict(state_dict={})


class Done(NamedTuple):
    """How a tool ended."""

    code: int
    lines: list

    @property
    def last(self) -> str:
        return self.lines[-1] if self.lines else ''


def run_tool(name: str, *args: Any, capsys: Any, monkeypatch: Any) -> Done:
    """Run tools/<name>.py in this process: a second faster than in one of its own."""
    monkeypatch.setattr(sys, 'argv', [f'{name}.py', *map(str, args)])
    capsys.readouterr()
    code = 0
    try:
        runpy.run_path(str(TOOLS / f'{name}.py'), run_name='__main__')
    except SystemExit as end:
        code = end.code or 0
    return Done(code, capsys.readouterr().err.strip().splitlines())


def zipped(
    path: Path,
    data: bytes,
    records: Optional[Dict[str, bytes]] = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """An archive like torch.save's around a pickle of one's own (without PROTO and STOP)."""
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr('archive/data.pkl', b'\x80\x02' + data + b'.')
        archive.writestr('archive/version', b'3\n')
        for name, content in (records or {}).items():
            archive.writestr(f'archive/{name}', content)
    return path


def text(value: str) -> bytes:
    """The opcode of a string."""
    data = value.encode()
    return b'X' + struct.pack('<I', len(data)) + data


def named(module: str, name: str) -> bytes:
    """The opcode of a global."""
    return b'c' + f'{module}\n{name}\n'.encode()


def storage(key: str = '0', count: int = 4, kind: str = 'FloatStorage') -> bytes:
    """The opcodes of the data of a tensor."""
    parts = text('storage') + named('torch', kind) + text(key) + text('cpu')
    return b'(' + parts + b'J' + struct.pack('<i', count) + b'tQ'


def tensor(
    offset: int = 0, size: tuple = (4,), stride: tuple = (1,), data: Optional[bytes] = None
) -> bytes:
    """The opcodes of a tensor."""
    parts = b''.join(_number_or_tuple(value) for value in (offset, size, stride))
    arguments = b'(' + (data or storage()) + parts + b'\x89' + b'Nt'
    return named('torch._utils', '_rebuild_tensor_v2') + arguments + b'R'


def _number_or_tuple(value: Any) -> bytes:
    if isinstance(value, tuple):
        return b'(' + b''.join(map(_number_or_tuple, value)) + b't'
    if -(2**31) <= value < 2**31:
        return b'J' + struct.pack('<i', value)
    return b'\x8a\x08' + struct.pack('<q', value)


def state_dict(value: bytes) -> bytes:
    """The opcodes of dict(state_dict={'weight': value})."""
    return b'}' + text('state_dict') + b'}' + text('weight') + value + b'ss'


def torchscript(path: Path, marker: Path) -> Path:
    """An archive whose loading by torch.jit writes a file."""

    class Writes(torch.nn.Module):
        def __init__(self, target: str) -> None:
            super().__init__()
            self.target = target

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

        @torch.jit.export
        def __getstate__(self) -> str:
            return self.target

        @torch.jit.export
        def __setstate__(self, target: str) -> None:
            self.target = target
            self.training = False
            torch.from_file(target, True, 4)

    torch.jit.save(torch.jit.script(Writes(str(marker))), str(path))
    return path


def training_checkpoint(path: Path, legacy: bool = False, **more: Any) -> dict:
    """What MMEngine saves in training, in a file; the object itself."""
    history = HistoryBuffer([0.5, 0.25], [1, 1])
    base = torch.arange(12.0).reshape(3, 4)
    state: Dict[str, Any] = OrderedDict(a=base, part=base[1:, ::2], half=base.half())
    state['bits'] = torch.tensor([True, False])
    state['steps'] = torch.tensor(7)
    state['none'] = torch.zeros(0, 3)
    state['wide'] = torch.tensor(1.0).expand(3)
    state['bfloat16'] = base.bfloat16()
    state._metadata = OrderedDict({'': dict(version=1)})  # type: ignore[attr-defined]
    out = dict(
        meta=dict(epoch=1, iter=4, best=np.float64(0.5), dataset_meta=dict(classes=('a', 'ä'))),
        state_dict=state,
        message_hub=dict(
            log_scalars=dict(loss=history),
            runtime_info=dict(epoch=1),
            resumed_keys=dict(loss=True, epoch=True),
        ),
        param_schedulers=[dict(milestones=Counter([1, 1, 2]), last_step=3)],
        optimizer=dict(state={0: dict(exp_avg=base + 1)}, param_groups=[dict(params=[0], lr=0.1)]),
        sigmas=np.array([0.1, 0.2]),
        **more,
    )
    torch.save(out, path, _use_new_zipfile_serialization=not legacy)
    return out


def saved(value: Any, legacy: bool = False) -> bytes:
    """What torch.save makes of a value."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


needs_proc = pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs Linux')
LIMITED = """
import resource, sys, torch
from mmdenoiserep.stock.reader import read_checkpoint
def status(key):
    lines = open('/proc/self/status').read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])
begin = status('VmRSS')
def grown():
    return status('VmHWM') - begin
resource.setrlimit(resource.RLIMIT_AS, (status('VmSize') + 2**30,) * 2)
"""


def run_limited(script: str, *args: Any) -> subprocess.CompletedProcess:
    """Run Python in a process whose memory may grow by 1 GB; ``grown()`` says how much it has."""
    command = [sys.executable, '-c', LIMITED + script, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment())
