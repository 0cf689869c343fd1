"""Working off the jobs of a study in several processes."""

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch

from lgrpo_lightning.study.results import Record, ResultFile


@dataclass(frozen=True)
class Job:
    """One piece of a study, long enough to be worth a line of progress.

    Attributes:
        key: all that the result depends on; plain data.
        name: for the progress.
        work: makes the result, plain data; it is sent to another process.
    """

    key: Record
    name: str
    work: Callable[[], Record]


def run_jobs(jobs: Sequence[Job], results: ResultFile, workers: int, output: Path) -> list[Record]:
    """Results of all jobs, in their order; those already in the file are not made again.

    Args:
        jobs: of unequal keys.
        results: where they are kept as soon as they are there.
        workers: processes, each of one thread; 1 or more.
        output: folder for what the jobs print, a file for each process.

    Raises:
        Exception: what a job raises; the results until then are kept.
    """
    open_jobs = [job for job in jobs if results.get(job.key) is None]
    done = len(jobs) - len(open_jobs)
    if done:
        _tell(f"{done} of {len(jobs)} jobs were finished before")
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    start = time.monotonic()
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_prepare, initargs=(output,)
    ) as pool:
        futures: dict[Future[Record], Job] = {pool.submit(job.work): job for job in open_jobs}
        try:
            for count, future in enumerate(as_completed(futures), start=1):
                job = futures[future]
                results.add(job.key, future.result())
                left = (time.monotonic() - start) / count * (len(open_jobs) - count)
                _tell(f"[{done + count}/{len(jobs)}] {job.name} · {_duration(left)} left")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [_found(results, job) for job in jobs]


def _prepare(output: Path) -> None:
    """Set up a process that works off jobs."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Several processes with several threads each would only wait for each other.
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    file = os.open(output / f"{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    # Below Python, so that it holds for loggers and libraries that keep the old streams.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(file, stream.fileno())


def _end_with_parent() -> None:
    """Do not stay behind, waiting for jobs, when the study's own process is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _found(results: ResultFile, job: Job) -> Record:
    record = results.get(job.key)
    assert record is not None, job.name
    return record


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
