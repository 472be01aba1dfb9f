"""What is written is whole, whenever a process is killed and whoever else writes."""

import os
import signal
import stat
from pathlib import Path
from typing import Callable, Optional

import pytest
import torch
from mmengine.config import Config

from mmdenoiserep.apis.fuse import check_out, write_with_config
from mmdenoiserep.stock import files
from mmdenoiserep.stock.checkpoint import load_checkpoint_file
from mmdenoiserep.stock.files import atomic_write, check_free, check_writable


def config(name: str) -> Config:
    return Config(dict(model=dict(type=name)))


def write(out: Path, name: str, force: bool = False) -> None:
    check_out(str(out), 'none.pth', force=force)
    write_with_config(str(out), config(name), dict(w=torch.full((3,), len(name))), None, force)


def in_child(function: Callable[[], None]) -> int:
    """Run a function in a fork of this process; how it ended."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def steps_of(out: Path, name: str, force: bool) -> list:
    """The steps of a writing, by name."""
    seen: list = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, 'after_step', seen.append)
        write(out, name, force)
    return seen


def pair(out: Path) -> Optional[str]:
    """Whose pair is there: by the checkpoint, which its config never contradicts."""
    path = out.with_suffix('.py')
    if not out.exists():
        assert not path.exists()
        return None
    checkpoint = load_checkpoint_file(str(out))
    text = checkpoint['meta']['cfg']
    assert not path.exists() or path.read_text() == text
    name = Config.fromstring(text, '.py').model.type
    assert checkpoint['state_dict']['w'].tolist() == [len(name)] * 3
    return name


@pytest.mark.parametrize('old', [None, 'Old', 'NewModel'], ids=['fresh', 'other', 'same'])
def test_killed_at_any_step_the_old_pair_is_there_or_the_new(old, tmp_path):
    out = tmp_path / 'a' / 'out.pth'
    probe = tmp_path / 'probe' / 'out.pth'
    for folder in (out, probe):
        if old:
            write(folder, old)
    steps = steps_of(probe, 'NewModel', force=True)
    assert len(steps) == (8 if old == 'Old' else 7)
    for step in steps:
        for path in out.parent.iterdir() if out.parent.exists() else ():
            path.unlink()
        if old:
            write(out, old)

        def killed(step: str = step) -> None:
            def kill(name: str) -> None:
                if name == step:
                    os.kill(os.getpid(), signal.SIGKILL)

            files.after_step = kill
            write(out, 'NewModel', force=True)

        assert os.WTERMSIG(in_child(killed)) == signal.SIGKILL
        done = step in steps[steps.index('checkpoint renamed') :]
        assert pair(out) == ('NewModel' if done else old), step
        # The next run finishes what is there, and removes the rest, even where it is refused.
        if done or old:
            with pytest.raises(FileExistsError, match='--force'):
                write(out, 'Third')
            assert pair(out) == ('NewModel' if done else old)
            assert sorted(p.name for p in out.parent.iterdir()) == ['out.pth', 'out.py'], step
        write(out, 'Third', force=True)
        assert pair(out) == 'Third'
        assert sorted(p.name for p in out.parent.iterdir()) == ['out.pth', 'out.py'], step


def test_a_config_put_aside_comes_back_to_a_checkpoint_that_does_not_hold_it(tmp_path):
    out = tmp_path / 'out.pth'
    torch.save(dict(meta={}, state_dict={}), out)
    out.with_suffix('.py').write_text('# written by hand')

    def killed() -> None:
        files.after_step = lambda name: name != 'old config put aside' or os.kill(os.getpid(), 9)
        write(out, 'New', force=True)

    assert os.WTERMSIG(in_child(killed)) == signal.SIGKILL
    assert not out.with_suffix('.py').exists()
    with pytest.raises(FileExistsError):
        write(out, 'New')
    assert out.with_suffix('.py').read_text() == '# written by hand'
    assert len(list(tmp_path.iterdir())) == 2


def test_two_writers_do_not_mix(tmp_path):
    out = tmp_path / 'out.pth'

    def often(name: str) -> None:
        for _ in range(20):
            write(out, name, force=True)

    children = []
    for name in ('One', 'Another', 'TheThird'):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                often(name)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert pair(out) in ('One', 'Another', 'TheThird')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['out.pth', 'out.py']


def test_who_is_second_is_refused(tmp_path):
    out = tmp_path / 'out.pth'
    check_out(str(out), 'none.pth')
    write(out, 'Faster')
    with pytest.raises(FileExistsError):
        write_with_config(str(out), config('Slower'), dict(w=torch.zeros(1)))
    assert pair(out) == 'Faster' and len(list(tmp_path.iterdir())) == 2


def test_an_atomic_write_leaves_the_old_file_or_the_new(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(b'old')

    def killed() -> None:
        with atomic_write(str(path)) as file:
            file.write(b'new')
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(in_child(killed)) == signal.SIGKILL
    assert path.read_bytes() == b'old' and len(list(tmp_path.iterdir())) == 2
    with atomic_write(str(path)) as file:
        file.write(b'new')
    assert path.read_bytes() == b'new' and list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


def test_inputs_are_not_replaced_through_links(tmp_path):
    checkpoint = tmp_path / 'victim.pth'
    checkpoint.write_bytes(b'weights')
    (tmp_path / 'victim.py').write_text('model = None')
    (tmp_path / 'here').symlink_to(tmp_path)
    (tmp_path / 'link.pth').symlink_to(checkpoint)
    os.link(checkpoint, tmp_path / 'hard.pth')
    other = tmp_path / 'other.pth'
    for out in ('here/victim.pth', 'link.pth', 'hard.pth', '../' + tmp_path.name + '/victim.pth'):
        with pytest.raises(ValueError, match='is the checkpoint itself; give another name'):
            check_out(str(tmp_path / out), str(checkpoint), force=True)
    with pytest.raises(ValueError, match='is the config itself; give another name'):
        check_out(str(checkpoint), str(other), str(tmp_path / 'here' / 'victim.py'), force=True)


def test_what_is_there_stays(tmp_path):
    (tmp_path / 'notes.py').write_text('mine')
    (tmp_path / 'folder.pth').mkdir()
    for out, error in (
        ('notes.pth', FileExistsError),
        ('folder.pth', ValueError),
        ('notes.py/out.pth', OSError),
    ):
        with pytest.raises(error):
            check_out(str(tmp_path / out), 'none.pth')
    for name in ('out', '.pth', 'a/.pth'):
        with pytest.raises(ValueError, match=r'\*\.pth'):
            check_out(name, 'none.pth')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['folder.pth', 'notes.py']
    check_out(str(tmp_path / 'notes.pth'), 'none.pth', force=True)
    check_free([str(tmp_path / 'new' / 'deep' / 'out.pth')])


def test_a_place_without_permission_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda *_: False)
    with pytest.raises(PermissionError, match='no permission to write'):
        check_writable(str(tmp_path / 'a' / 'out.pth'))


def test_a_full_disk_is_an_error_in_one_line(tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError('[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0')

    monkeypatch.setattr('mmdenoiserep.apis.fuse.torch.save', full)
    with pytest.raises(OSError, match=r'out.pth cannot be written; is the disk full\?'):
        write(tmp_path / 'out.pth', 'Name')
    assert not list(tmp_path.iterdir())
