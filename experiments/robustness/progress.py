"""A line that says how far a run is, on a terminal and in a file."""

import sys
import time
from typing import Optional, TextIO


class Meter:
    """Counts images, or what else takes its time, against a total.

    On a terminal the line is overwritten; in a file another is added every ``pause`` seconds.

    Args:
        total (int): How many there are in all.
        unit (str): What is counted. Defaults to 'images'.
        pause (float): Seconds between two lines of a file. Defaults to 15.
        stream (TextIO, optional): Defaults to the standard output.
    """

    def __init__(
        self,
        total: int,
        unit: str = 'images',
        pause: float = 15.0,
        stream: Optional[TextIO] = None,
    ) -> None:
        self.total = total
        self.unit = unit
        self.stream = stream or sys.stdout
        self.is_terminal = self.stream.isatty()
        self.pause = 0.2 if self.is_terminal else pause
        self.done = 0
        self.begin = self.last = time.monotonic()
        self.title = ''
        self.was_shown = False

    def start(self, title: str) -> None:
        """What those that follow are for."""
        self.title = title

    def advance(self, number: int = 1) -> None:
        """So many more are done."""
        self.done += number
        if time.monotonic() - self.last >= self.pause:
            self._show()

    def close(self) -> None:
        """Say the last, unless it went too fast to be said anything about."""
        if self.was_shown:
            self._show()
            if self.is_terminal:
                print(file=self.stream, flush=True)

    def _show(self) -> None:
        self.was_shown = True
        self.last = time.monotonic()
        elapsed = self.last - self.begin
        line = f'{self.done} of {self.total} {self.unit}'
        if self.done and elapsed > 0:
            left = round((self.total - self.done) * elapsed / self.done)
            line += f', {self.done / elapsed:.1f}/s, {left // 3600}:{left // 60 % 60:02}:'
            line += f'{left % 60:02} left'
        line += f'  {self.title}'
        if self.is_terminal:
            print(f'\r\x1b[K{line}', end='', file=self.stream, flush=True)
        else:
            print(line, file=self.stream, flush=True)
