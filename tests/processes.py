"""Two processes with a gloo process group, as two GPUs would have."""

import os
import sys
from pathlib import Path
from typing import Callable

import torch.distributed
from torch import multiprocessing


def run_in_two_processes(function: Callable, folder: Path, *args) -> None:
    """Call ``function(rank, folder, *args)`` in each; it must be importable."""
    multiprocessing.spawn(_enter, args=(function, folder, args), nprocs=2)


def _enter(rank: int, function: Callable, folder: Path, args: tuple) -> None:
    os.environ['LOCAL_RANK'] = str(rank)  # as launchers do
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2
    )
    function(rank, folder, *args)
    # Gloo fails in whoever is still talking to a process that has left.
    torch.distributed.barrier()
    # Without destroying the group, which after traffic can hang (torch 2.1 with gloo), and so
    # without what Python does at exit, which destroys it too.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
