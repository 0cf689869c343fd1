"""Time spent working, not counting what happens between two pieces of work."""

import time


class Throughput:
    """Seconds of work since the last reading; evaluation in between does not count.

    Example::

        >>> clock = Throughput()
        >>> clock.start(); clock.stop()
        >>> clock.reading() >= 0
        True
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Work begins."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Work pauses."""
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None

    def reading(self) -> float:
        """Seconds of work since the last reading, or since the first start."""
        running = self._since is not None
        self.stop()
        seconds, self._seconds = self._seconds, 0.0
        if running:
            self.start()
        return seconds
