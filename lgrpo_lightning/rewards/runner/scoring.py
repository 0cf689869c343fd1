"""Score completions with one worker, whatever happens to it."""

from collections.abc import Sequence
from dataclasses import dataclass

from lgrpo_lightning.rewards.runner.errors import RewardError
from lgrpo_lightning.rewards.runner.messages import (
    SETUP_LIMIT,
    Arguments,
    CheckRequest,
    Failure,
    Outcome,
    Refusal,
    ScoreReply,
    ScoreRequest,
)
from lgrpo_lightning.rewards.runner.process import WorkerProcess, WorkerStoppedError


@dataclass(frozen=True)
class Scores:
    """What became of M completions.

    Attributes:
        values: M rewards; None where the function does not apply or failed.
        failures: the calls that failed, each with its completion; None if it was for all.
    """

    values: list[float | None]
    failures: list[tuple[int | None, Failure]]


def score_whole(
    worker: WorkerProcess, count: int, arguments: Arguments, time_limit: float
) -> Scores:
    """One call for all completions; a failure costs all their rewards."""
    worker.start()
    try:
        request = ScoreRequest(count, arguments, one_by_one=False, time_limit=time_limit)
        reply: ScoreReply = worker.ask(request, time_limit)
    except WorkerStoppedError as stopped:
        outcomes: list[Outcome] | Failure = _failure(stopped, time_limit)
    else:
        outcomes = reply.outcomes
    if isinstance(outcomes, Failure):
        return Scores([None] * count, [(None, outcomes)])
    return _scores(outcomes)


def score_each(
    worker: WorkerProcess, count: int, arguments: Arguments, time_limit: float
) -> Scores:
    """A call for each completion; a failure costs only the reward of its own.

    A completion that stops the worker is given up, and a new worker takes up the rest: those that
    come after it, and those before it whose rewards had not been sent yet.
    """
    outcomes: dict[int, Outcome] = {}
    while pending := [row for row in range(count) if row not in outcomes]:
        worker.start()
        outcomes.update(_score_rows(worker, arguments, pending, time_limit))
    return _scores([outcomes[row] for row in range(count)])


def check_references(worker: WorkerProcess, name: str, columns: Arguments) -> None:
    """Have the function check the references in a data set's columns.

    Raises:
        ValueError: for a reference that can't be used.
        RewardError: if the check itself failed.
    """
    worker.start()
    try:
        reply: Refusal | Failure | None = worker.ask(CheckRequest(columns), SETUP_LIMIT)
    except WorkerStoppedError as stopped:
        reply = _failure(stopped, SETUP_LIMIT)
    if isinstance(reply, Refusal):
        raise ValueError(f"reward {name!r}: {reply.text}")
    if isinstance(reply, Failure):
        raise RewardError(f"reward {name!r} could not check its references: {reply.text}")


def _score_rows(
    worker: WorkerProcess, arguments: Arguments, rows: Sequence[int], time_limit: float
) -> dict[int, Outcome]:
    """Outcomes of at least one of the rows, of all unless the worker stops."""
    chosen = {name: [values[row] for row in rows] for name, values in arguments.items()}
    request = ScoreRequest(len(rows), chosen, one_by_one=True, time_limit=time_limit)
    outcomes: list[Outcome] = []
    try:
        outcomes += worker.ask(request, time_limit).outcomes
        while len(outcomes) < len(rows):
            outcomes += worker.receive(time_limit).outcomes
    except WorkerStoppedError as stopped:
        scored = dict(zip(rows, outcomes, strict=False))
        return {**scored, rows[stopped.position]: _failure(stopped, time_limit)}
    return dict(zip(rows, outcomes, strict=True))


def _failure(stopped: WorkerStoppedError, time_limit: float) -> Failure:
    if not stopped.timed_out:
        return Failure("died", str(stopped))
    where = f"; it was here:\n{stopped}" if str(stopped) else ""
    return Failure("timeout", f"it took longer than its time limit, {time_limit:g} s{where}")


def _scores(outcomes: Sequence[Outcome]) -> Scores:
    return Scores(
        [None if isinstance(outcome, Failure) else outcome for outcome in outcomes],
        [(row, outcome) for row, outcome in enumerate(outcomes) if isinstance(outcome, Failure)],
    )


def gather(parts: Sequence[Scores], count: int) -> Scores:
    """Put the scores of W workers, each with every W-th completion, back into order."""
    values: list[float | None] = [None] * count
    failures: list[tuple[int | None, Failure]] = []
    for first, part in enumerate(parts):
        values[first :: len(parts)] = part.values
        for row, failure in part.failures:
            failures.append((None if row is None else first + row * len(parts), failure))
    return Scores(values, failures)
