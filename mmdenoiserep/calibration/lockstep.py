"""Forward passes that run side by side and all pause before each of some layers.

What a layer's denoiser should be depends on the features behind all earlier denoisers. Run one
after another, N layers would take N passes over the images. Here each batch has a forward pass of
its own that stops where a layer begins, until the layer's denoiser is solved from all of them.
"""

import threading
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from torch import Tensor

from ..denoiser import Denoiser
from ..network.observation import observe_inputs


class Job(NamedTuple):
    """A forward pass.

    Attributes:
        run (Callable): Makes it, in a thread of its own.
        bypass (bool): Whether it runs with the stock weights: as the teacher.
    """

    run: Callable[[], Any]
    bypass: bool


class _Abandoned(BaseException):
    """Raised in a paused forward pass that is not to go on."""


class _Thread(threading.Thread):
    """A job that runs only between :meth:`go_on` and its next pause."""

    def __init__(self, job: Job) -> None:
        super().__init__(daemon=True)
        self.job = job
        self.layer: Optional[str] = None
        self.value: Any = None
        self.error: Optional[BaseException] = None
        self.abandoned = False
        self._turn = threading.Semaphore(0)
        self._paused = threading.Semaphore(0)

    def run(self) -> None:
        self._turn.acquire()
        try:
            if not self.abandoned:
                self.value = self.job.run()
        except _Abandoned:
            pass
        except BaseException as error:
            self.error = error
        self.layer = None
        self._paused.release()

    def go_on(self) -> None:
        """Run to the next pause or to the end."""
        self._turn.release()
        self._paused.acquire()
        if self.error is not None:
            raise self.error

    def pause(self, layer: str, x: Tensor) -> None:
        """Called within: wait for the next turn."""
        self.layer, self.value = layer, x
        self._paused.release()
        self._turn.acquire()
        if self.abandoned:
            raise _Abandoned


def run_in_lockstep(
    modules: Dict[str, Denoiser],
    jobs: Sequence[Job],
    at_layer: Callable[[str, List[Tensor], List[int]], None],
) -> List[Any]:
    """Run forward passes through the same layers, pausing all of them before each.

    One at a time computes, so the result does not depend on how threads are scheduled.

    Args:
        modules (dict[str, Denoiser]): Where to pause: at the first call of each layer.
        jobs (Sequence[Job]): The forward passes. Gradients are off in none of them by itself.
        at_layer (Callable): Called as ``at_layer(name, inputs, threads)`` when all have paused,
            with the layer's input in each job, and the identifiers of the jobs' threads.

    Returns:
        list: What the jobs returned.

    Raises:
        ValueError: If the jobs do not come to the same layers in the same order.
    """
    threads = [_Thread(job) for job in jobs]
    passed: set = set()

    def pause(name: str, _: Denoiser, x: Tensor) -> None:
        if name not in passed:
            by_ident[threading.get_ident()].pause(name, x)

    def go_on(thread: _Thread) -> None:
        for denoiser in modules.values():
            denoiser.bypassed = thread.job.bypass
        thread.go_on()

    for thread in threads:
        thread.start()
    # All of them: a thread that is started has an identifier.
    by_ident = {thread.ident: thread for thread in threads if thread.ident is not None}
    try:
        with observe_inputs(modules, pause, threads=list(by_ident)):
            while True:
                for thread in threads:
                    go_on(thread)
                layers = {thread.layer for thread in threads}
                if len(layers) > 1:
                    names = sorted(map(str, layers))
                    raise ValueError(f'images take different paths through the network: at {names}')
                (name,) = layers
                if name is None:
                    return [thread.value for thread in threads]
                at_layer(name, [t.value for t in threads], list(by_ident))
                passed.add(name)
    finally:
        for denoiser in modules.values():
            denoiser.bypassed = False
        for thread in threads:
            thread.abandoned = True
            if thread.is_alive():
                thread._turn.release()
        for thread in threads:
            thread.join()
