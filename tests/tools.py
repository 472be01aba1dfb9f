"""The command-line tools, run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOOLS = ROOT / 'tools'


def environment() -> dict:
    """The environment of a process that can import the package and the toy model."""
    paths = [str(ROOT / 'tests'), str(ROOT), os.environ.get('PYTHONPATH', '')]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in paths if p))


def tool(name: str, *args, cwd: Path) -> subprocess.CompletedProcess:
    """Run tools/<name>.py to its end."""
    command = [sys.executable, str(TOOLS / f'{name}.py'), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=cwd)
