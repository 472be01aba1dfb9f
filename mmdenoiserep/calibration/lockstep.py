"""Forward passes that run side by side and all pause before each of some layers.

What a layer's denoiser should be depends on the features behind all earlier denoisers. Run one
after another, N layers would take N passes over the images. Here each batch has a forward pass of
its own that stops where a layer begins, until the layer's denoiser is solved from all of them.
"""

from typing import Any, Callable, Dict, Hashable, List, NamedTuple, Sequence

from greenlet import getcurrent, greenlet
from torch import Tensor

from ..denoiser import Denoiser
from ..network.observation import observe_inputs


class Job(NamedTuple):
    """A forward pass.

    Attributes:
        run (Callable): Makes it.
        bypass (bool): Whether it runs with the stock weights: as the teacher.
    """

    run: Callable[[], Any]
    bypass: bool


#: What runs now: the key of a job while it does.
current: Callable[[], Hashable] = getcurrent


def run_in_lockstep(
    modules: Dict[str, Denoiser],
    jobs: Sequence[Job],
    at_layer: Callable[[str, List[Tensor], List[Hashable]], None],
) -> List[Any]:
    """Run forward passes through the same layers, pausing all of them before each.

    They take turns in one thread: each of many would have worker threads of its own, and two of
    those were no faster than one. What a pass sets for its thread (gradients off, autocast) the
    others see.

    Args:
        modules (dict[str, Denoiser]): Where to pause: at the first call of each layer.
        jobs (Sequence[Job]): The forward passes.
        at_layer (Callable): Called as ``at_layer(name, inputs, keys)`` when all have paused, with
            the layer's input in each job, and what :func:`current` is in each.

    Returns:
        list: What the jobs returned.

    Raises:
        ValueError: If the jobs do not come to the same layers in the same order.
    """
    main = getcurrent()
    passed: set = set()
    runs: List[Any] = [greenlet(job.run) for job in jobs]

    def pause(name: str, _: Denoiser, x: Tensor) -> None:
        if name not in passed:
            main.switch((name, x))

    def go_on(run: Any, job: Job) -> Any:
        """Run to the next pause, or to the end: what was paused with, or returned."""
        for denoiser in modules.values():
            denoiser.bypassed = job.bypass
        return run.switch()

    try:
        values: List[Any] = [None] * len(jobs)
        with observe_inputs(modules, pause):
            while True:
                for i, (run, job) in enumerate(zip(runs, jobs)):
                    values[i] = None  # or it would keep the layer's input while it goes on
                    values[i] = go_on(run, job)
                layers = {None if run.dead else value[0] for run, value in zip(runs, values)}
                if len(layers) > 1:
                    names = sorted(map(str, layers))
                    raise ValueError(f'images take different paths through the network: at {names}')
                (name,) = layers
                if name is None:
                    return values
                at_layer(name, [x for _, x in values], runs)
                passed.add(name)
    finally:
        for denoiser in modules.values():
            denoiser.bypassed = False
        for run in runs:
            run.throw()  # ends what has paused
