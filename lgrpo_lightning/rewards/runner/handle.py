"""Scores that are being computed."""

import concurrent.futures
import logging
import math
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Literal

from lgrpo_lightning.rewards.runner.errors import RewardError
from lgrpo_lightning.rewards.runner.function import RewardFunction
from lgrpo_lightning.rewards.runner.scoring import Scores, gather
from lgrpo_lightning.rewards.runner.table import RewardTable, weighted_total

OnError = Literal["raise", "skip"]
_logger = logging.getLogger(__name__)


class ScoreHandle:
    """Rewards under way; ``result()`` waits for them.

    Args:
        runner: whose workers they come from; kept, so that it isn't closed before.
        pending: functions, each with the scores to come of its workers.
        count: number of completions.
        on_error: "raise" or "skip".
    """

    def __init__(
        self,
        runner: object,
        pending: "Sequence[tuple[RewardFunction, Sequence[Future[Scores]]]]",
        count: int,
        on_error: OnError,
    ) -> None:
        self._runner = runner
        self._pending = pending
        self._count = count
        self._on_error = on_error

    def done(self) -> bool:
        """Whether ``result`` would return at once."""
        return all(part.done() for part in self._parts())

    def result(self) -> RewardTable:
        """Wait for all functions; raises what ``RewardRunner.score`` says."""
        concurrent.futures.wait(self._parts())
        per_function: dict[str, list[float]] = {}
        errors: dict[str, int] = {}
        for function, parts in self._pending:
            scores = gather([part.result() for part in parts], self._count)
            self._handle_failures(function, scores)
            per_function[function.name] = [math.nan if v is None else v for v in scores.values]
            errors[function.name] = len(scores.failures)
        weights = {function.name: function.weight for function, _ in self._pending}
        total = weighted_total(per_function, weights, self._count)
        return RewardTable(per_function, total, errors)

    def _parts(self) -> "list[Future[Scores]]":
        return [part for _, parts in self._pending for part in parts]

    def _handle_failures(self, function: RewardFunction, scores: Scores) -> None:
        """Raise for the first failure that can't be skipped, else log the first."""
        level = logging.INFO
        for row, failure in scores.failures:
            where = "" if row is None else f" at completion {row}"
            if failure.kind == "invalid":
                raise ValueError(f"reward {function.name!r}{where}: {failure.text}")
            # A completion that takes forever is the model's doing, not a mistake in the function.
            skipped = failure.kind == "timeout" and function.description.per_completion
            if self._on_error == "raise" and not skipped:
                raise RewardError(
                    f"reward {function.name!r} failed{where}: {failure.text}\n\nCorrect the "
                    "function, or set on_reward_error (of RewardRunner: on_error) to 'skip' to go "
                    "on without its reward."
                )
            level = level if skipped else logging.WARNING
        if scores.failures:
            row, failure = scores.failures[0]
            _logger.log(
                level,
                "reward %r: %d calls were given up; the first%s: %s",
                function.name,
                len(scores.failures),
                "" if row is None else f", at completion {row}",
                failure.text,
            )
