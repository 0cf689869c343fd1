"""Scores completions with several reward functions, each in processes of its own."""

import concurrent.futures
import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, get_args

from lgrpo_lightning.rewards.completion import Completion, Prompt
from lgrpo_lightning.rewards.runner.function import RewardFunction
from lgrpo_lightning.rewards.runner.handle import OnError, ScoreHandle
from lgrpo_lightning.rewards.runner.messages import Arguments
from lgrpo_lightning.rewards.runner.process import WorkerProcess
from lgrpo_lightning.rewards.runner.spec import RewardLike, resolve_rewards
from lgrpo_lightning.rewards.runner.table import RewardTable

_FAREWELL = 2.5  # seconds for all workers together to end
_LONGEST = 1_000_000  # seconds; what the system's waiting functions can count
_ATTEMPTS = 10  # a worker may be starting just while it is killed


class RewardRunner:
    """Calls reward functions under a hard time limit, all at once.

    Every function lives in a worker process that loads it once and keeps it. A call that exceeds
    the limit is ended by killing its worker with everything that it started, so no code can
    escape it; the next call starts a new one. Needs Linux or macOS.

    Args:
        rewards: dotted paths, ``file.py:name`` paths, ``RewardSpec``s, or functions, classes and
            instances that another process can import.
        time_limit: seconds for each call of a function. Functions marked ``per_completion`` are
            called for one completion at a time.
        on_error: what follows when a function raises, runs out of time or dies. "raise" stops
            with a ``RewardError``; "skip" gives the call's completions no reward of this
            function, counts it in ``RewardTable.errors`` and logs it. The time-out of a
            ``per_completion`` function is always skipped: it is the model's doing.
        workers_per_function: worker processes of each ``per_completion`` function; others have
            one.
        default_weight: of rewards that have no weight of their own.

    Raises:
        ValueError: for a reward that can't be loaded or called, two of one name, a weight that is
            not finite, and arguments out of range. All before the first completion.

    Example::

        with RewardRunner(["lgrpo_lightning.rewards.gsm8k_reward"], time_limit=10.0) as runner:
            table = runner.score(prompts, completions, completion_ids, {"answer": answers})
    """

    def __init__(
        self,
        rewards: Sequence[RewardLike],
        time_limit: float = 30.0,
        on_error: OnError = "raise",
        workers_per_function: int = 1,
        default_weight: float = 1.0,
    ) -> None:
        _check_arguments(time_limit, on_error, workers_per_function)
        resolved = resolve_rewards(rewards, default_weight)
        self.names = [reward.name for reward in resolved]
        self.weights = [reward.weight for reward in resolved]
        self._on_error: OnError = on_error
        self._functions = [RewardFunction(reward, float(time_limit)) for reward in resolved]
        # Also when nobody calls close: at the end of the runner's life, or of the program.
        self._owner = os.getpid()
        weakref.finalize(self, _dismiss, self._functions, self._owner)
        try:
            for function in self._functions:
                function.wait_until_loaded(workers_per_function)
        except BaseException:
            self.close()
            raise

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]],
        columns: Mapping[str, Sequence[Any]],
    ) -> RewardTable:
        """Score M completions and wait for the rewards.

        Args:
            prompts: M prompts, repeated for each completion of theirs.
            completions: M completions, strings or lists of role messages.
            completion_ids: M lists of token ids.
            columns: other columns of the data set, each with M values.

        Returns:
            Rewards by function, their weighted sum, and the number of errors.

        Raises:
            ValueError: for arguments of unequal length, a missing column, and a function that
                returns anything but one finite number or None for each completion.
            RewardError: if a function fails and ``on_error`` is "raise".
            RuntimeError: in a process that was forked from the runner's.
        """
        return self.submit(prompts, completions, completion_ids, columns).result()

    def submit(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]],
        columns: Mapping[str, Sequence[Any]],
    ) -> ScoreHandle:
        """Start scoring and return at once; arguments and errors as in ``score``.

        Returns:
            A handle whose ``result()`` waits for the table. Several can be open at a time.
        """
        self._require_owner()
        count = len(completions)
        arguments = _arguments(prompts, completions, completion_ids, columns)
        for function in self._functions:
            function.require(dict(columns))
        pending = [(function, function.submit(count, arguments)) for function in self._functions]
        return ScoreHandle(self, pending, count, self._on_error)

    def check(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Check a data set before training: columns that functions need, and their references.

        Args:
            columns: the whole data set, without its prompts.

        Raises:
            ValueError: naming the function and the missing column, or the row and the value of a
                reference that can't be used.
            RewardError: if a check itself fails.
        """
        self._require_owner()
        data = {name: list(values) for name, values in columns.items()}
        for function in self._functions:
            function.require(data)
        checks = [function.check(data) for function in self._functions]
        for check in checks:
            if check is not None:
                check.result()

    def close(self) -> None:
        """End all workers; a call under way fails. The next call would start them again."""
        _end_workers(self._functions, self._owner)

    def __enter__(self) -> "RewardRunner":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _require_owner(self) -> None:
        if os.getpid() != self._owner:
            raise RuntimeError("this RewardRunner belongs to the process this one was forked from")


def _check_arguments(time_limit: float, on_error: str, workers_per_function: int) -> None:
    if sys.platform == "win32":
        raise RuntimeError("reward workers need Linux or macOS; on Windows, use WSL")
    if isinstance(time_limit, bool) or not 0 < time_limit <= _LONGEST:
        raise ValueError(f"time_limit must be in (0, {_LONGEST}] seconds, got {time_limit!r}")
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    if not isinstance(workers_per_function, int) or workers_per_function < 1:
        raise ValueError(f"workers_per_function must be ≥ 1, got {workers_per_function!r}")


def _arguments(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Any]],
) -> Arguments:
    batch = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids}
    taken = sorted(batch.keys() & columns.keys())
    if taken:
        raise ValueError(f"the columns {taken} have names that belong to the batch; rename them")
    arguments = {**batch, **columns}
    for name, values in arguments.items():
        if len(values) != len(completions):
            raise ValueError(
                f"{name!r} has {len(values)} entries for {len(completions)} completions"
            )
    return {name: list(values) for name, values in arguments.items()}


def _end_workers(functions: list[RewardFunction], owner: int) -> None:
    """End the workers of all functions, those that are in the middle of a call by force."""
    if os.getpid() != owner:
        return  # a fork of the program: the workers are not its own
    lanes = [lane for function in functions for lane in function.lanes]
    for lane in lanes:
        if lane.busy:
            lane.worker.abandon()
    farewells = {lane.submit(WorkerProcess.close): lane for lane in lanes}
    _, busy = concurrent.futures.wait(farewells, timeout=_FAREWELL)
    for _ in range(_ATTEMPTS):
        for farewell in busy:
            farewells[farewell].worker.abandon()
        _, busy = concurrent.futures.wait(busy, timeout=0.1)


def _dismiss(functions: list[RewardFunction], owner: int) -> None:
    """End the workers and the threads that talk to them."""
    _end_workers(functions, owner)
    for function in functions:
        for lane in function.lanes:
            lane.finish()
