"""The way into every tool: checkpoints are read as data, and an error is one line."""

import argparse
import errno
import os
import re
import sys
from pathlib import Path
from typing import Any, Callable, List, NoReturn, Optional

from ..stock.reader import trust_checkpoints
from ..stock.sources import read_weights_only

#: Longest line of an error.
WIDTH = 600
#: Errors that say themselves what is wrong; the name of others is put before their text.
PLAIN = (ValueError, OSError, ImportError)


def run_tool(
    parse_args: Callable[[], argparse.Namespace], run: Callable[[argparse.Namespace], Any]
) -> None:
    """Run a tool of the command line.

    MMEngine reads checkpoints as data from here on, unless ``--trust-checkpoint`` is given. What
    fails is said in one line, the cause before the remedy, and ends the process with 1; with
    ``--debug`` the error passes through.

    Args:
        parse_args (Callable): Gives the arguments, with those of
            :func:`.arguments.add_tool_arguments` among them.
        run (Callable): Called with them.
    """
    args = parse_args()
    sys.path.append(os.getcwd())  # for the `custom_imports` of configs: projects.reid, say
    trust_checkpoints(args.trust_checkpoint)
    read_weights_only()
    try:
        run(args)
    except KeyboardInterrupt:
        if args.debug:
            raise
        _end('interrupted', 130)
    except Exception as error:
        if args.debug:
            raise
        _end(in_one_line(error), 1)


def in_one_line(error: BaseException) -> str:
    """What an error says, in one line: the cause, and a remedy where there is one."""
    text, remedy = _cause(error), _remedy(error)
    text = ' '.join(text.split())
    text = text if len(text) <= WIDTH else f'{text[:WIDTH]} ...'
    return f'{text}; {remedy}' if remedy else text


def _cause(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f'{error.filename}: {error.strerror.lower()}'
    text = str(error).strip()
    if 'Traceback (most recent call last)' in text:  # of a data loader's process
        text = text.splitlines()[-1]
    # MMEngine's registries put every class on the way before the cause.
    text = re.sub(r'^((class|function) `?\w+`? in \S+: )+', '', text)
    if isinstance(error, re.error):
        return f'no regular expression: {text}'
    if isinstance(error, KeyError):
        text = f'there is no {text}' if len(text) < 80 else text.strip('"')
    if text and isinstance(error, PLAIN):
        return text
    return f'{type(error).__name__}: {text}' if text else f'{type(error).__name__}{_place(error)}'


def _place(error: BaseException) -> str:
    frames: List[str] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(f'{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}')
        trace = trace.tb_next
    return f' in {frames[-1]}' if frames else ''


def _remedy(error: BaseException) -> Optional[str]:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return 'free space where it is written: OUT, or the work folder'
    if isinstance(error, FileNotFoundError) and error.filename:
        return 'check the paths in the config, which --cfg-options override'
    if isinstance(error, PermissionError) and error.filename:
        return 'choose another place'
    if isinstance(error, ImportError):
        return 'install what is missing, or look at custom_imports of the config'
    if type(error).__name__ == 'OutOfMemoryError':
        return 'lower the batch size or the size of the images'
    if isinstance(error, PLAIN):
        return None
    return '--debug shows where'


def _end(message: str, code: int) -> NoReturn:
    sys.stdout.flush()
    print(f'{Path(sys.argv[0]).stem}: {message}', file=sys.stderr)
    raise SystemExit(code)
