"""Jobs in processes of their own, side by side on GPUs or on the cores of a CPU."""

import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor, wait
from multiprocessing import get_context, parent_process
from pathlib import Path
from queue import Queue
from threading import Lock, Thread
from typing import Any, Callable, List, Optional, Protocol, Sequence

import torch
from mmengine.config import Config
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmdenoiserep.stock.reader import trust_checkpoints, trusted

#: Imported once, so that a job starts in a moment; what fails here fails in the job, visibly.
PRELOAD = ('experiments.study.jobs', 'mmdenoiserep.models', 'mmdenoiserep.hooks')


class Job(Protocol):
    """What can be run: complete or not at all, part by part."""

    @property
    def folder(self) -> str:
        """Where everything goes, the log too."""

    def missing(self) -> Any:
        """Whether something is still to do."""

    def run(self) -> None:
        """Do what is missing, in a process of its own."""


def run_jobs(
    jobs: Sequence[Job], workers: int, done: Callable[[Job], None], scope: str = 'mmengine'
) -> None:
    """Run jobs that do not depend on each other.

    With GPUs each worker has one of those that ``CUDA_VISIBLE_DEVICES`` leaves; without, its share
    of the cores.

    Args:
        jobs (Sequence[Job]): Those that have nothing to do are skipped.
        workers (int): Jobs at a time.
        done (Callable): Called with each job when it is finished.
        scope (str): Package whose models and data sets the jobs use.

    Raises:
        RuntimeError: If jobs fail: with their last words. The others are finished first.
    """
    context = get_context('forkserver')
    context.set_forkserver_preload([*PRELOAD, f'{scope}.models', f'{scope}.datasets'])
    # MMEngine asks for CUDA where it is imported, and a process that was forked behind that could
    # not use it; this asks the driver instead.
    os.environ.setdefault('PYTORCH_NVML_BASED_CUDA_CHECK', '1')
    gpus = visible_gpus()
    threads = max(1, torch.get_num_threads() // workers)
    places: Queue = Queue()
    starting = Lock()
    for i in range(workers):
        places.put(gpus[i % len(gpus)] if gpus else None)

    def run(job: Job) -> None:
        if job.missing():
            log = Path(job.folder, 'log.txt')
            log.parent.mkdir(parents=True, exist_ok=True)
            before = log.stat().st_size if log.is_file() else 0  # it may have run earlier
            place = places.get()
            try:
                process = context.Process(
                    target=_work, args=(job, place, threads, str(log), trusted())
                )
                with starting:  # the fork server hands over one process at a time
                    process.start()
                process.join()
            finally:
                places.put(place)
            # By its results: a process may stumble over a library when it is done and exits.
            if job.missing():
                if (process.exitcode or 0) < 0:
                    raise RuntimeError(
                        f'{job.folder} was killed by signal {-process.exitcode}; if the memory was '
                        f'full, give fewer --workers (see {log})'
                    )
                words = log.read_bytes()[before:] if log.is_file() else b''
                lines = words.decode(errors='replace').strip().splitlines() or ['no output']
                raise RuntimeError(f'{job.folder} failed: {lines[-1]} (see {log})')
        done(job)

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        try:
            wait(futures)
        except BaseException:  # an interrupt, after which no other job is to start
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    errors = [error for error in (future.exception() for future in futures) if error]
    if len(errors) > 1 and all(isinstance(error, RuntimeError) for error in errors):
        raise RuntimeError(f'{len(errors)} jobs failed: ' + '; '.join(map(str, errors)))
    for error in errors:
        raise error


def visible_gpus() -> List[str]:
    """The GPUs that jobs may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get('CUDA_VISIBLE_DEVICES')
    count = torch.cuda.device_count()
    return named.split(',')[:count] if named else [str(i) for i in range(count)]


def work(config: Config, console: Console, title: str, jobs: Sequence[Job], workers: int) -> None:
    """Run jobs under a progress bar; see :func:`run_jobs`.

    Args:
        config (Config): Says which package's models and data sets they use.
        console (Console): Where the bar is drawn.
        title (str): Beside it.
        jobs (Sequence[Job]): The jobs.
        workers (int): Jobs at a time.
    """
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=len(jobs))
        run_jobs(jobs, workers, lambda job: progress.advance(task), config.default_scope)


def _work(job: Job, gpu: Optional[str], threads: int, log: str, trust: bool) -> None:
    trust_checkpoints(trust)
    # Killed, the study leaves nobody behind who writes into its folders.
    Thread(target=_end_with_the_study, daemon=True).start()
    if gpu is not None:
        os.environ['CUDA_VISIBLE_DEVICES'] = gpu
    torch.set_num_threads(threads)
    with open(log, 'a') as file:  # a job is taken up again to be tested
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            job.run()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)


def _end_with_the_study() -> None:
    parent_process().join()
    os._exit(1)
