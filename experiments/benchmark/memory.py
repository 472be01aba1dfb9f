"""Peak memory of one training step or forward pass, in a process of its own."""

import gc
import resource
from multiprocessing import get_context
from pathlib import Path
from typing import Callable, Dict

import torch

from . import variants
from .variants import Case

#: Everything whose memory can be measured.
STEPS: Dict[str, Callable] = {
    **variants.TRAINING,
    'baseline': lambda case: variants.forward(case, case.build('stock').eval()),
    'DenoiseRep, unfused': lambda case: variants.forward(case, case.build().eval()),
    # As it is deployed: the fused checkpoint in the stock config, which is the stock model.
    'DenoiseRep, fused': lambda case: variants.forward(case, case.build('stock').eval()),
    'DenoiseRep⁻': lambda case: variants.forward(case, case.build('minus').eval()),
}


def peak_memory(case: Case, name: str, repeats: int = 2) -> int:
    """Peak memory of a step, in bytes, parameters and optimizer state included.

    On a GPU what PyTorch has allocated there, on a CPU the growth of the resident set since
    before the model was built (Linux and macOS).

    Args:
        case (Case): The conditions.
        name (str): A key of ``STEPS``.
        repeats (int): Steps to make; from the second on an optimizer has its state. Defaults to 2.
    """
    context = get_context('spawn')
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(case, name, repeats, send))
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        raise RuntimeError(f'{name}: the process that measured its memory failed') from None
    finally:
        process.join()


def _measure(case: Case, name: str, repeats: int, send) -> None:
    cuda = case.device.startswith('cuda')
    gc.collect()
    before = 0 if cuda else _resident()
    step = STEPS[name](case)
    for _ in range(repeats):
        step.run(step.prepare())
    send.send(torch.cuda.max_memory_allocated() if cuda else _resident() - before)


def _resident() -> int:
    """The largest resident set so far, in bytes."""
    status = Path('/proc/self/status')
    if status.exists():  # getrusage counts the parent's memory in before `exec`
        line = next(x for x in status.read_text().splitlines() if x.startswith('VmHWM'))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
