"""A progress bar for MMEngine's Runner."""

from mmengine.hooks import Hook
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressHook(Hook):
    """Shows training, and testing without training, as one bar with the time left."""

    priority = 'LOWEST'

    def __init__(self, name: str, console: Console) -> None:
        self.bar = Progress(
            TextColumn('{task.description:<28}'),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn('{task.fields[note]}'),
            console=console,
        )
        self.name = name

    def before_train(self, runner) -> None:
        self._start(runner.max_iters)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        loss = f'loss {outputs["loss"].item():.3f}' if 'loss' in (outputs or {}) else ''
        self.bar.advance(self.task)
        self.bar.update(self.task, note=loss)

    def after_train(self, runner) -> None:
        self.bar.stop()

    def before_test(self, runner) -> None:
        self._start(len(runner.test_dataloader))

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.bar.advance(self.task)

    def after_test(self, runner) -> None:
        self.bar.stop()

    def _start(self, total: int) -> None:
        self.task = self.bar.add_task(self.name, total=total, note='')
        self.bar.start()
