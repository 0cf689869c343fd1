"""A worker process, seen from the runner."""

import contextlib
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Pipe
from typing import Any

from lgrpo_lightning.rewards.runner.channel import Channel
from lgrpo_lightning.rewards.runner.errors import RewardError
from lgrpo_lightning.rewards.runner.messages import SETUP_LIMIT, Description, Refusal, Target
from lgrpo_lightning.rewards.runner.recorder import FlightRecorder, create_recorder_file

_GRACE = 0.5  # seconds that the worker's own alarm has, before it is killed from here
_FAREWELL = 2.0  # seconds that a worker has to end by itself

# Not multiprocessing's "spawn": that imports the user's main script again in every worker, which
# without a main guard starts the training there, and in a notebook does not work at all.
_BOOTSTRAP = """\
import sys
sys.path[:] = {path!r}
from lgrpo_lightning.rewards.runner.worker import main
main({connection}, {recorder}, {parent})
"""


class WorkerStoppedError(Exception):
    """The worker had to be killed or died by itself.

    Attributes:
        timed_out: whether it ran out of time.
        position: the completion it was at, counted within its request.
    """

    def __init__(self, text: str, timed_out: bool, position: int) -> None:
        super().__init__(text)
        self.timed_out = timed_out
        self.position = position


class WorkerProcess:
    """A process of its own session that loads one reward function and serves requests.

    It starts again after a death, and ends with this process. To be used from one thread, except
    for ``kill`` and ``abandon``.

    Args:
        target: what it loads.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None

    def start(self) -> Description | None:
        """Start it, unless it is running.

        Returns:
            What it says about its function; None if it was running.

        Raises:
            ValueError: if the function can't be loaded.
            RewardError: if the process died over it.
        """
        if self._channel is not None:
            if not self._channel.poll():
                return None
            self._stop()  # an idle worker says nothing: it has died
        self._spawn()
        try:
            reply = self.ask(self._target, SETUP_LIMIT)
        except WorkerStoppedError as stopped:
            where = f"no end after {SETUP_LIMIT:g} s; it was here:\n" if stopped.timed_out else ""
            raise RewardError(
                f"reward {self._target.name!r} could not be loaded: {where}{stopped}"
            ) from None
        if isinstance(reply, Refusal):
            self._stop()
            raise ValueError(
                f"reward {(self._target.path or self._target.name)!r} can't be used: {reply.text}"
            )
        assert isinstance(reply, Description)
        return reply

    def ask(self, request: object, limit: float) -> Any:  # noqa: ANN401 - as the request has it
        """Send a request to the running worker and wait for the first reply.

        Raises:
            ValueError: if the request can't be pickled.
            WorkerStoppedError: if there was none within ``limit`` seconds.
            RewardError: if the runner was closed meanwhile.
        """
        assert self._channel is not None
        self._recorder.mark(0)  # not where the last request left it, should the worker die at once
        try:
            self._channel.send(request)
        except ValueError as error:
            raise ValueError(f"reward {self._target.name!r}: its arguments {error}") from None
        except OSError:
            raise self._died() from None
        return self.receive(limit)

    def receive(self, limit: float) -> Any:  # noqa: ANN401
        """Wait for another reply to the last request.

        Raises:
            WorkerStoppedError: if there was none within ``limit`` seconds.
        """
        assert self._channel is not None
        try:
            if not self._channel.poll(limit + _GRACE):
                raise self._died(timed_out=True)
            return self._channel.receive()
        except (EOFError, OSError):
            raise self._died() from None

    def _spawn(self) -> None:
        if self._closed:
            raise self._closed_error()
        here, there = Pipe()
        self._recorder_file = create_recorder_file()
        self._recorder = FlightRecorder(self._recorder_file.fileno())
        descriptors = (there.fileno(), self._recorder.file_descriptor)
        code = _BOOTSTRAP.format(
            path=worker_path(),
            connection=descriptors[0],
            recorder=descriptors[1],
            parent=os.getpid(),
        )
        # Unbuffered, so that what a function prints is not lost when it is killed; in a session
        # of its own, so that what it starts can be killed with it.
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", code],
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            start_new_session=True,
        )
        there.close()
        self._channel = Channel(here)

    def _died(self, timed_out: bool = False) -> WorkerStoppedError | RewardError:
        hang, position = self._recorder.hang, self._recorder.position
        code = self._stop()
        if self._closed:
            return self._closed_error()
        if timed_out or hang is not None:
            return WorkerStoppedError(hang or "", True, position)
        return WorkerStoppedError(_reason(code), False, position)

    def _closed_error(self) -> RewardError:
        return RewardError(f"reward {self._target.name!r}: the runner was closed")

    def _stop(self) -> int:
        """Kill the process and all it started, clean up, and return its exit code."""
        assert self._process is not None
        assert self._channel is not None
        self.kill()
        code = self._process.wait()
        self._channel.close()
        self._recorder_file.close()
        self._channel = None
        return code

    def kill(self) -> None:
        """Kill the process and all it started; does nothing to one that has been waited for."""
        if self._process is not None and self._process.returncode is None:
            # Not there any more: another thread was faster; macOS forbids killing the dead.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def abandon(self) -> None:
        """Kill it, from any thread, and let nothing start it before it is closed."""
        self._closed = True
        self.kill()

    def close(self) -> None:
        """End it: ask it to, and kill it if it doesn't. It may be started again."""
        self._closed = False
        if self._channel is None:
            return
        with contextlib.suppress(OSError):  # it has died already, and is cleaned up all the same
            self._channel.send(None)
            self._channel.poll(_FAREWELL)  # its end of the pipe closes with it
        self._stop()


def _reason(code: int) -> str:
    if code >= 0:
        return f"its worker ended with exit code {code}"
    hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
    return f"its worker ended by signal {-code} ({signal.strsignal(-code)}){hint}"


def worker_path() -> list[str]:
    """``sys.path`` of a worker: the working directory first, as ``python -m`` has it."""
    here = os.getcwd()
    return list(dict.fromkeys([here, *(str(entry) or here for entry in sys.path)]))
