"""A file in which a worker leaves what its runner needs to know after killing it."""

import faulthandler
import os
import tempfile
from typing import BinaryIO

WATCH_NAME = "_end_with_parent"  # the worker's function that watches its parent
_POSITION_BYTES = 8


class FlightRecorder:
    """The completion a worker is at, and where it hung.

    Worker and runner share one unnamed temporary file: first the position, then the stack that a
    hang left. The alarm is faulthandler's: it needs neither signals nor the interpreter lock, so
    it ends even a regular expression that backtracks forever, also when the runner is gone.

    Args:
        file_descriptor: the shared file.
    """

    def __init__(self, file_descriptor: int) -> None:
        self.file_descriptor = file_descriptor

    def mark(self, position: int) -> None:
        """Note which completion of the request comes next."""
        os.pwrite(self.file_descriptor, position.to_bytes(_POSITION_BYTES, "little"), 0)

    def arm(self, seconds: float) -> None:
        """Write the stack and end this process unless disarmed within so many seconds."""
        faulthandler.dump_traceback_later(seconds, file=self.file_descriptor, exit=True)

    def disarm(self) -> None:
        """Call off the alarm."""
        faulthandler.cancel_dump_traceback_later()

    @property
    def position(self) -> int:
        """The completion the worker was at, counted within its request."""
        return int.from_bytes(os.pread(self.file_descriptor, _POSITION_BYTES, 0), "little")

    @property
    def hang(self) -> str | None:
        """The function's stack at the end of the time limit; None if that wasn't reached."""
        size = os.fstat(self.file_descriptor).st_size
        if size == _POSITION_BYTES:
            return None
        stack = os.pread(self.file_descriptor, size, _POSITION_BYTES).decode(errors="replace")
        return _of_the_function(stack)


def create_recorder_file() -> BinaryIO:
    """An empty recorder file: position 0, no hang."""
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as long as the worker
    file.write(bytes(_POSITION_BYTES))
    return file


def _of_the_function(stacks: str) -> str:
    """Faulthandler's stacks without the worker's own thread and frames."""
    threads = [stack for stack in stacks.split("\n\n") if f"in {WATCH_NAME}\n" not in stack]
    own = f'"{os.path.dirname(__file__)}{os.sep}'
    lines = "\n\n".join(threads).splitlines()
    return "\n".join(line for line in lines if own not in line and '"<string>"' not in line)
