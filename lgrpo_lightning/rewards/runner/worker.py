"""The worker process: loads one reward function and calls it as often as it is asked."""

import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

from lgrpo_lightning.rewards.runner.calling import Caller, traceback_of
from lgrpo_lightning.rewards.runner.channel import Channel
from lgrpo_lightning.rewards.runner.loading import LoadError, describe, load
from lgrpo_lightning.rewards.runner.messages import (
    FLUSH_INTERVAL,
    SETUP_LIMIT,
    CheckRequest,
    Failure,
    Outcome,
    Refusal,
    ScoreReply,
    ScoreRequest,
    Target,
)
from lgrpo_lightning.rewards.runner.recorder import FlightRecorder


def main(connection: int, recorder: int, parent: int) -> None:
    """Serve requests until the runner says None or is gone.

    Args:
        connection: file descriptor of the two-way pipe to the runner.
        recorder: file descriptor of the flight recorder.
        parent: the runner's process id.
    """
    for descriptor in (connection, recorder):
        os.set_inheritable(descriptor, False)  # programs a reward starts have no use for them
    os.dup(connection)  # never closed, so that the runner sees the end when the process has ended
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    _Server(Channel(Connection(connection)), FlightRecorder(recorder)).serve()


def _end_with_parent(parent: int) -> None:
    """End this process, and what it started, when its parent has ended without a word."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


class _Server:
    def __init__(self, channel: Channel, recorder: FlightRecorder) -> None:
        self._channel = channel
        self._recorder = recorder

    def serve(self) -> None:
        try:
            target = self._channel.receive()
            if self._load(target):
                while (request := self._channel.receive()) is not None:
                    self._answer(request)
                    sys.stdout.flush()
        except (EOFError, ConnectionError):
            return  # the runner is gone

    def _load(self, target: object) -> bool:
        assert isinstance(target, Target)
        self._recorder.arm(SETUP_LIMIT)
        try:
            self._function = load(target)
            description = describe(self._function)
        except LoadError as error:
            self._channel.send(Refusal(str(error)))
            return False
        finally:
            self._recorder.disarm()
        self._caller = Caller(self._function)
        self._channel.send(description)
        return True

    def _answer(self, request: object) -> None:
        if isinstance(request, CheckRequest):
            self._check(request)
            return
        assert isinstance(request, ScoreRequest)
        self._recorder.arm(request.time_limit)
        try:
            reply = self._score_each(request) if request.one_by_one else self._score(request)
        finally:
            self._recorder.disarm()
        self._channel.send(reply)

    def _score(self, request: ScoreRequest) -> ScoreReply:
        rewards = self._caller.rewards(request.arguments, request.count)
        return ScoreReply(rewards if isinstance(rewards, Failure) else [*rewards])

    def _score_each(self, request: ScoreRequest) -> ScoreReply:
        """The last outcomes; others are sent before, and with them the time limit starts anew."""
        interval = min(FLUSH_INTERVAL, request.time_limit / 10)
        outcomes: list[Outcome] = []
        flushed = time.monotonic()
        for position in range(request.count):
            if time.monotonic() - flushed > interval:
                self._channel.send(ScoreReply(outcomes))
                outcomes = []
                self._recorder.arm(request.time_limit)
                flushed = time.monotonic()
            self._recorder.mark(position)
            here = slice(position, position + 1)
            one = {name: values[here] for name, values in request.arguments.items()}
            rewards = self._caller.rewards(one, 1)
            outcomes.append(rewards if isinstance(rewards, Failure) else rewards[0])
        return ScoreReply(outcomes)

    def _check(self, request: CheckRequest) -> None:
        self._recorder.arm(SETUP_LIMIT)
        try:
            self._function.check_references(request.columns)  # type: ignore[attr-defined]
        except ValueError as error:
            self._channel.send(Refusal(str(error)))
        except Exception as error:
            self._channel.send(Failure("raised", traceback_of(error)))
        else:
            self._channel.send(None)
        finally:
            self._recorder.disarm()
