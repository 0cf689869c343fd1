"""A worker process with the thread that talks to it."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from lgrpo_lightning.rewards.runner.messages import Target
from lgrpo_lightning.rewards.runner.process import WorkerProcess

Result = TypeVar("Result")
_Job = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Lane:
    """Runs jobs with one worker process, one after another, in a thread.

    The thread is a daemon, unlike an executor's, so that a program can end while a reward hangs.

    Args:
        target: what the worker loads.
    """

    def __init__(self, target: Target) -> None:
        self.worker = WorkerProcess(target)
        self._last: Future[Any] | None = None
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(
            target=_run, args=(self._jobs, self.worker), name=f"reward {target.name}", daemon=True
        ).start()

    def submit(self, job: Callable[..., Result], *arguments: object) -> "Future[Result]":
        """Queue ``job(worker, *arguments)``."""
        future: Future[Result] = Future()
        self._last = future
        self._jobs.put((future, job, arguments))
        return future

    @property
    def busy(self) -> bool:
        """Whether a job is running or queued."""
        return self._last is not None and not self._last.done()

    def finish(self) -> None:
        """End the thread after the jobs that are queued."""
        self._jobs.put(None)


def _run(jobs: "queue.SimpleQueue[_Job | None]", worker: WorkerProcess) -> None:
    while (item := jobs.get()) is not None:
        future, job, arguments = item
        try:
            future.set_result(job(worker, *arguments))
        except BaseException as error:  # raised again where the result is asked for
            future.set_exception(error)
        del item, future, job, arguments  # or the last batch lives until the next one
