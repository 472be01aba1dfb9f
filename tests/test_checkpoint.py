"""What is read of a checkpoint, and what is refused in one line: on any release of PyTorch."""

import os
import pickle
import struct
import tarfile
import zipfile
from collections import Counter, OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from crafted import (
    EMPTY,
    named,
    needs_proc,
    run_limited,
    saved,
    state_dict,
    storage,
    tensor,
    text,
    torchscript,
    training_checkpoint,
    zipped,
)
from mmengine.logging import HistoryBuffer

from mmdenoiserep.stock.checkpoint import load_checkpoint_file
from mmdenoiserep.stock.reader import read_checkpoint

DATA = Path(__file__).parent / 'data'


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
def test_a_training_checkpoint_is_read_whole(legacy, tmp_path):
    expected = training_checkpoint(tmp_path / 'a.pth', legacy)
    found = read_checkpoint(str(tmp_path / 'a.pth'))
    state = found['state_dict']
    assert list(state) == list(expected['state_dict'])
    for key, value in expected['state_dict'].items():
        assert state[key].dtype is value.dtype and torch.equal(state[key], value), key
        assert state[key].stride() == value.stride(), key
    assert state._metadata == expected['state_dict']._metadata
    # Tensors that shared their data still do.
    assert state['part'].data_ptr() == state['a'].data_ptr() + 16
    assert found['meta'] == expected['meta']
    history = found['message_hub']['log_scalars']['loss']
    assert type(history) is HistoryBuffer and history.mean() == 0.375
    history.update(0.75)
    assert history.current() == 0.75
    milestones = found['param_schedulers'][0]['milestones']
    assert type(milestones) is Counter and milestones == Counter([1, 1, 2])
    assert torch.equal(
        found['optimizer']['state'][0]['exp_avg'], expected['optimizer']['state'][0]['exp_avg']
    )
    assert np.array_equal(found['sigmas'], expected['sigmas'])


@pytest.mark.parametrize('name', ['toy_denoiserep_0.1.pth', 'toy_fused_0.1.pth'])
def test_it_reads_what_torch_reads(name):
    found = load_checkpoint_file(str(DATA / name))['state_dict']
    expected = torch.load(DATA / name, weights_only=True)['state_dict']
    assert list(found) == list(expected) and found._metadata == expected._metadata
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_what_is_of_no_use_becomes_nothing(tmp_path):
    more = dict(kept=1, device=torch.device('cpu'), hooks=dict(a=slice(1), b=2))
    training_checkpoint(tmp_path / 'a.pth', **more)
    found = read_checkpoint(str(tmp_path / 'a.pth'))
    assert found['kept'] == 1 and found['hooks'] == dict(b=2) and 'device' not in found


@pytest.mark.skipif(not hasattr(torch, 'uint16'), reason='of PyTorch 2.3')
def test_types_without_a_storage_of_their_own_are_read(tmp_path):
    kinds = ('uint16', 'float8_e4m3fn')
    state = {kind: torch.ones(3).to(getattr(torch, kind)) for kind in kinds}
    torch.save(dict(state_dict=state), tmp_path / 'a.pth')
    found = read_checkpoint(str(tmp_path / 'a.pth'))['state_dict']
    for kind in kinds:
        assert found[kind].dtype is getattr(torch, kind) and (found[kind].float() == 1).all()


class Runs:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


EVIL = {
    'os.system': state_dict(named('os', 'system') + text('true') + b'\x85R'),
    'builtins.eval': state_dict(named('builtins', 'eval') + text('1') + b'\x85R'),
    'builtins.exec': state_dict(named('__builtin__', 'exec') + text('1') + b'\x85R'),
    'torch.load': state_dict(named('torch', 'load') + text('x') + b'\x85R'),
    'torch.jit.load': state_dict(named('torch.jit', 'load') + text('x') + b'\x85R'),
    'torch._utils.x': state_dict(named('torch._utils', '_import_dotted_name') + b')R'),
    'dotted name': state_dict(named('torch', '_utils._rebuild_tensor_v2') + b')R'),
    'functools.partial': state_dict(named('functools', 'partial') + b')R'),
    'extension': state_dict(b'\x82\x01'),
    'instance': state_dict(b'(ios\nsystem\n'),
    'object': state_dict(b'(' + named('os', 'system') + b'o'),
    'string is called': state_dict(text('os.system') + b')R'),
    'tensor is called': state_dict(tensor() + b')R'),
    'persistent id': state_dict(text('module') + b'Q'),
    'protocol 0 id': state_dict(b'Pstorage\n'),
    'list with a state': state_dict(b']}b'),
}


@pytest.mark.parametrize('name', EVIL)
def test_code_in_a_pickle_is_refused(name, tmp_path):
    path = zipped(tmp_path / 'evil.pth', EVIL[name], {'data/0': bytes(16)})
    with pytest.raises(ValueError, match=r'evil\.pth cannot be loaded as weights only') as error:
        read_checkpoint(str(path))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
def test_code_in_a_checkpoint_is_not_run(legacy, tmp_path):
    marker = tmp_path / 'marker'
    path = tmp_path / 'evil.pth'
    evil = dict(state_dict=dict(a=Runs(marker)))
    torch.save(evil, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match='weights only'):
        read_checkpoint(str(path))
    assert not marker.exists()
    pickle.loads(pickle.dumps(Runs(marker)))  # and it would have worked
    assert marker.exists()


def test_globals_are_not_changed(tmp_path):
    """BUILD sets attributes of what a name stands for, where that is the thing itself."""
    state = b'}' + text('poison') + b'K\x01s'
    slots = b'N}' + text('poison') + b'K\x01s\x86'
    for i, name in enumerate(
        (
            'collections.Counter',
            'collections.OrderedDict',
            'torch._utils._rebuild_tensor_v2',
            'torch.FloatStorage',
            'torch.float32',
            'numpy.dtype',
            'mmengine.logging.history_buffer.HistoryBuffer',
        )
    ):
        module, _, attribute = name.rpartition('.')
        for change in (state, slots):
            data = b'}' + text('x') + named(module, attribute) + change + b'bs'
            path = zipped(tmp_path / f'{i}.pth', data)
            with suppress(ValueError):
                read_checkpoint(str(path))
    for owner in (Counter, OrderedDict, torch._utils._rebuild_tensor_v2, np.dtype, HistoryBuffer):
        assert not hasattr(owner, 'poison')


def test_a_history_cannot_poison_others(tmp_path):
    name = named('mmengine.logging.history_buffer', 'HistoryBuffer')
    methods = b'}' + text('statistics_methods') + b'}' + text('mean') + b'Nss'
    data = b'}' + text('x') + name + b')\x81' + methods + b'bs'
    read_checkpoint(str(zipped(tmp_path / 'a.pth', data)))
    assert HistoryBuffer([2.0], [1]).statistics('mean') == 2.0


def test_forged_number_types_make_no_objects(tmp_path):
    """An array of Python objects would have addresses in the file for its elements."""
    dtype = named('numpy', 'dtype') + text('V8') + b'K\x00K\x01\x87R'
    fields = b'(K\x03' + text('|') + b'N' + text('a') + b'\x85'
    fields += b'}' + text('a') + named('numpy', 'dtype') + text('O8') + b'\x85RK\x00\x86s'
    fields += b'K\x08K\x01K?tb'
    array = named('numpy.core.multiarray', '_reconstruct') + named('numpy', 'ndarray')
    array += b'K\x00\x85C\x01b\x87R'
    for kind in (dtype, dtype + fields, named('numpy', 'dtype') + text('O8') + b'\x85R'):
        content = b'(K\x01K\x01\x85' + kind + b'\x89C\x08' + struct.pack('<q', id(tmp_path)) + b'tb'
        path = zipped(tmp_path / 'a.pth', b'}' + text('x') + array + content + b's')
        assert read_checkpoint(str(path))['x'].size == 0


HUGE = struct.pack('<i', 2**31 - 1)
BROKEN = {
    'behind the storage': (state_dict(tensor(1)), 'behind its storage'),
    'negative offset': (state_dict(tensor(-1)), 'impossible'),
    'negative stride': (state_dict(tensor(3, (4,), (-1,))), 'impossible'),
    'large stride': (state_dict(tensor(0, (2,), (2**40,))), 'behind its storage'),
    'repeated': (state_dict(tensor(0, (2**40,), (0,))), 'behind its storage'),
    'many dimensions': (state_dict(tensor(0, (1,) * 65, (1,) * 65)), 'impossible'),
    'lines': (
        state_dict(text('a\nb\x1b[31m') + text('c') + b'\x93'),
        r'a b \[31m\.c, which is none of what',
    ),
    'ranks differ': (state_dict(tensor(0, (2, 2), (1,))), 'impossible'),
    'larger storage': (state_dict(tensor(data=storage(count=5))), 'another size'),
    'smaller storage': (state_dict(tensor(data=storage(count=3))), 'another size'),
    'negative storage': (state_dict(tensor(data=storage(count=-4))), 'impossible'),
    'no data': (state_dict(tensor(data=storage('1'))), 'missing'),
    'elsewhere': (state_dict(tensor(data=storage('../data.pkl'))), 'missing'),
    'quantized': (state_dict(tensor(data=storage(kind='QInt8Storage'))), 'QInt8Storage'),
    'no boolean': (
        state_dict(tensor(size=(16,), data=storage(count=16, kind='BoolStorage'))),
        '0 and 1',
    ),
    'memo': (state_dict(b'j\xff\xff\xff\xff'), 'damaged'),
    'empty stack': (b'0' * 3, 'opcode POP'),
    'no mark': (b'tt', 'damaged'),
    'long string': (b'\x8d' + struct.pack('<q', 2**40), 'damaged'),
    'long bytes': (b'\x96' + struct.pack('<q', 2**62), 'damaged'),
    'long integer': (b'\x8b' + HUGE, 'damaged'),
    'a list as key': (b'}]Ns', 'no key'),
    'a huge number as key': (b'}\x8a\x09' + bytes(8) + b'\x01Ns', 'no key'),
    'odd metadata': (
        state_dict(named('collections', 'OrderedDict') + b')R}' + text('_metadata') + b'Nsb'),
        '_metadata',
    ),
}


@pytest.mark.parametrize('name', BROKEN)
def test_broken_pickles_are_refused(name, tmp_path):
    data, reason = BROKEN[name]
    path = zipped(tmp_path / 'a.pth', data, {'data/0': b'\0\0\x80?' * 4})
    with pytest.raises(ValueError, match=f'a.pth cannot be loaded as weights only: .*{reason}'):
        read_checkpoint(str(path))


def test_the_whole_tensor_would_have_been_read(tmp_path):
    path = zipped(tmp_path / 'a.pth', state_dict(tensor()), {'data/0': b'\0\0\x80?' * 4})
    assert read_checkpoint(str(path))['state_dict']['weight'].tolist() == [1, 1, 1, 1]


def files(folder: Path) -> dict:
    """Files that are no checkpoints by what is said of them."""
    good = saved(dict(state_dict=dict(a=torch.randn(1000))))
    tarred = folder / 'a.tar'
    with tarfile.open(tarred, 'w') as archive:
        archive.add(__file__, 'storages')
    return {
        'it is empty': b'',
        'it is cut off or damaged: its list': good[:-100],
        'it is cut off or damaged': good[: len(good) // 2],
        'it is damaged.*CRC': good[:1500] + b'\xff' * 8 + good[1508:],
        'it is a web page': b'\n <!DOCTYPE html><title>404</title>',
        'it is a text file': b'Not found',
        'it is a pointer of Git LFS': b'version https://git-lfs.github.com/spec/v1\n',
        'it is a safetensors file': struct.pack('<q', 60) + b'{"a":{"dtype":"F32"}}',
        'it is a tar archive': tarred.read_bytes(),
        'it is compressed': b'\x1f\x8b\x08\x00',
        'it holds zeros only': bytes(600),
        'it is a pickle, but not of torch.save': pickle.dumps(dict(state_dict={}), 2),
        'it is in no format': bytes(range(200, 256)),
        'it is an empty or damaged zip archive': b'PK\x05\x06' + bytes(18),
        'it is cut off': saved(dict(state_dict=dict(a=torch.randn(1000))), legacy=True)[:-100],
    }


def test_other_files_are_named_for_what_they_are(tmp_path):
    for reason, content in files(tmp_path).items():
        path = tmp_path / 'file.pth'
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f'file.pth cannot be .*: {reason}'):
            read_checkpoint(str(path))


def test_other_archives_are_refused(tmp_path):
    pages = {'a/data.pkl': b'.', 'b/data.pkl': b'.'}
    for names, reason in ((['x.txt'], 'not of torch.save'), (pages, 'not of torch.save')):
        with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
            for name in names:
                archive.writestr(name, b'.')
        with pytest.raises(ValueError, match=reason):
            read_checkpoint(str(tmp_path / 'a.pth'))
    bomb = zipped(
        tmp_path / 'a.pth', state_dict(tensor()), {'data/0': bytes(2**24)}, zipfile.ZIP_DEFLATED
    )
    assert bomb.stat().st_size < 2**16
    with pytest.raises(ValueError, match='compressed'):
        read_checkpoint(str(bomb))
    big = zipped(tmp_path / 'a.pth', EMPTY, {'byteorder': b'big'})
    with pytest.raises(ValueError, match='big-endian'):
        read_checkpoint(str(big))


def test_torchscript_is_refused_and_does_not_run(tmp_path):
    marker = tmp_path / 'marker'
    path = torchscript(tmp_path / 'a.pth', marker)
    with pytest.raises(ValueError, match='TorchScript'):
        read_checkpoint(str(path))
    assert not marker.exists()


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / 'pipe.pth')
    with pytest.raises(ValueError, match='no file, but a pipe'):
        read_checkpoint(str(tmp_path / 'pipe.pth'))
    with pytest.raises(ValueError, match='is a folder'):
        read_checkpoint(str(tmp_path))
    with pytest.raises(FileNotFoundError, match='there is no checkpoint'):
        read_checkpoint(str(tmp_path / 'none.pth'))


BOMBS = {
    'memo': lambda: b''.join(b'Nr' + struct.pack('<I', 2**31 - 1 - i) for i in range(1000)),
    'lists': lambda: b']' * 3_000_000,
    'tuples': lambda: b'N' + b'\x85' * 3_000_000,
    'memo entries': lambda: b'N' + b'\x94' * 3_000_000,
    'copies': lambda: (
        named('_codecs', 'encode')
        + b'q\x00'
        + text('x' * 2**20)
        + b'q\x01'
        + (b'h\x00h\x01\x85R' * 100_000)
    ),
    'histories': lambda: (
        named('mmengine.logging.history_buffer', 'HistoryBuffer') + b'q\x00' + b'h\x00)\x81' * 10**6
    ),
    'tensors': lambda: tensor() * 20_000,
}


@needs_proc
def test_small_files_do_not_fill_the_memory(tmp_path):
    """In a process of its own, whose memory is limited to 1 GB more than it has."""
    for name, make in BOMBS.items():
        zipped(tmp_path / f'{name}.pth', make() + b'N', {'data/0': bytes(16)})
    script = (
        'for path in sys.argv[1:]:\n'
        '    try:\n        read_checkpoint(path)\n'
        '    except ValueError as error:\n        print(path, error)\n'
        '        assert "memory" not in str(error)\n'
        'print(grown())\n'
    )
    done = run_limited(script, *sorted(tmp_path.glob('*.pth')))
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-1]) < 700 * 2**20
