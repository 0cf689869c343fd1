"""A two-way pipe that carries Python objects between a runner and its worker."""

import pickle
from multiprocessing.connection import Connection
from typing import Any


class Channel:
    """Objects over a connection, with plain pickle.

    Not the connection's own ``send``: its pickler is changed by torch, which would hand tensors
    over as shared memory, and that works only between processes multiprocessing itself started.

    Args:
        connection: one end of a pipe.
    """

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection

    def send(self, message: object) -> None:
        """Send an object.

        Raises:
            ValueError: if it can't be pickled.
            OSError: if the other side is gone.
        """
        try:
            data = pickle.dumps(message)
        # What pickle raises depends on the object: these are its documented and its usual ways.
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ValueError(
                f"can't be sent to the worker process: {error}; use plain data (text, numbers, "
                "lists, dicts)"
            ) from None
        self._connection.send_bytes(data)

    def receive(self) -> Any:  # noqa: ANN401 - whatever the other side sent
        """Wait for an object; EOFError or OSError if the other side is gone."""
        return pickle.loads(self._connection.recv_bytes())

    def poll(self, seconds: float = 0.0) -> bool:
        """Whether there is something to receive (the end included) within so many seconds."""
        return self._connection.poll(seconds)

    def close(self) -> None:
        """Close this end."""
        self._connection.close()
