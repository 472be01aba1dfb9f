"""Progress of MMEngine's Runner: a bar, or where standard output is a file, lines."""

import time

from mmengine.hooks import Hook
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

#: Seconds from one line to the next.
EVERY = 10.0


class ProgressHook(Hook):
    """Shows training, and testing without training, with the time left."""

    priority = 'LOWEST'

    def __init__(self, name: str, console: Console) -> None:
        self.name = name
        self.console = console
        columns = (
            TextColumn('{task.description:<28}'),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn('{task.fields[note]}'),
        )
        self.bar = Progress(*columns, console=console) if console.is_terminal else None

    def before_train(self, runner) -> None:
        self._start(runner.max_iters)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._advance(f'loss {outputs["loss"].item():.3f}' if 'loss' in (outputs or {}) else '')

    def after_train(self, runner) -> None:
        self._stop()

    def before_test(self, runner) -> None:
        self._start(len(runner.test_dataloader))

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._advance('')

    def after_test(self, runner) -> None:
        self._stop()

    def _start(self, total: int) -> None:
        self.total, self.done = total, 0
        self.begin = self.said = time.monotonic()
        if self.bar:
            self.task = self.bar.add_task(self.name, total=total, note='')
            self.bar.start()
        else:
            self._say('')

    def _advance(self, note: str) -> None:
        self.done += 1
        if self.bar:
            self.bar.update(self.task, advance=1, note=note)
        elif time.monotonic() - self.said > EVERY:
            self._say(note)

    def _stop(self) -> None:
        if self.bar:
            self.bar.stop()
        else:
            self._say('')

    def _say(self, note: str) -> None:
        self.said = time.monotonic()
        seconds = self.said - self.begin
        left = seconds / self.done * (self.total - self.done) if self.done else 0
        rest = f'{left:4.0f} s left' if left else f'{seconds:4.0f} s'
        print(
            f'{self.name:<28} {self.done:>4}/{self.total} {rest} {note}',
            flush=True,
            file=self.console.file,
        )
