"""Thousands of damaged checkpoints, with a fixed seed: refused in one line, or read rightly."""

from crafted import needs_proc, run_limited, training_checkpoint

FUZZ = """
import io, random, struct, warnings, zipfile
from collections import Counter, OrderedDict
import numpy as np
from mmengine.logging import HistoryBuffer
from mmdenoiserep.stock.plain_pickle import Inert
from mmdenoiserep.stock.reader import read_stream
warnings.simplefilter('error')
PLAIN = {dict, OrderedDict, Counter, list, tuple, set, frozenset, str, bytes, bytearray, int, float,
         bool, type(None), torch.Size, torch.dtype, torch.Tensor, torch.nn.Parameter, np.ndarray,
         HistoryBuffer}

def damage(data, generator):
    data = bytearray(data)
    for _ in range(generator.choice((1, 1, 1, 2, 8))):
        at, kind = generator.randrange(len(data)), generator.randrange(7)
        if kind < 3:
            data[at] ^= 1 << generator.randrange(8)
        elif kind == 3:
            data[at] = generator.choice((0, 1, 127, 128, 255))
        elif kind == 4:
            del data[at:at + generator.choice((1, 4, 64, 10**6))]
        elif kind == 5:
            data[at:at] = generator.choice((b'\\0', b'.', b'}', b'R', b'b', b'\\xff' * 8))
        else:
            other = generator.randrange(len(data))
            data[at:at + 16] = data[other:other + 16]
        data = data or bytearray(b'P')
    return bytes(data)

def read(data):
    try:
        return read_stream(io.BytesIO(data), 'some.pth')
    except ValueError as error:
        assert str(error).startswith('some.pth cannot be') and '\\n' not in str(error), error
        return None

def plain(value, seen):
    assert type(value) in PLAIN or isinstance(value, Inert), type(value)
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        for part in value:
            plain(part, seen)
    if isinstance(value, torch.Tensor) and value.numel():
        value.clone()  # reads all that it claims to have

def tensors(value, out):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            tensors(part, out)
    if isinstance(value, torch.Tensor):
        out.append(value)
    return out

def repacked(data, change):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, 'w') as target:
        for info in source.infolist():
            content = source.read(info)
            target.writestr(info.filename, change(content) if 'pkl' in info.filename else content)
    return out.getvalue()

generator = random.Random(14)
whole, legacy = (open(path, 'rb').read() for path in sys.argv[1:3])
expected = tensors(read(whole), [])
refused = equal = 0
for _ in range(2000):
    found = read(damage(whole, generator))
    if found is None:
        refused += 1
        continue
    equal += 1
    found = tensors(found, [])
    assert len(found) == len(expected)
    assert all(a.dtype is b.dtype and torch.equal(a, b) for a, b in zip(found, expected))
# Without the archive's checksums, the pickle itself decides. What is read is plain.
others = 0
for _ in range(1500):
    found = read(repacked(whole, lambda data: damage(data, generator)))
    others += found is not None
    plain(found, set())
for _ in range(1500):
    found = read(damage(legacy, generator))
    others += found is not None
    plain(found, set())
print(refused, equal, others, grown())
"""


@needs_proc
def test_damaged_checkpoints_are_refused_or_read_as_they_were(tmp_path):
    training_checkpoint(tmp_path / 'zip.pth')
    training_checkpoint(tmp_path / 'legacy.pth', legacy=True)
    done = run_limited(FUZZ, tmp_path / 'zip.pth', tmp_path / 'legacy.pth')
    assert done.returncode == 0, done.stdout + done.stderr
    refused, equal, others, grown = map(int, done.stdout.split())
    assert refused + equal == 2000 and equal > 20 and others > 100
    assert grown < 2**30
