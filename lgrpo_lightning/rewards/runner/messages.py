"""What a runner and its worker processes say to each other."""

from dataclasses import dataclass, field
from typing import Any, Literal

SETUP_LIMIT = 300.0  # seconds to import and build a function, or to check a data set's references
FLUSH_INTERVAL = 0.02  # seconds between two partial answers of a worker, about


@dataclass(frozen=True)
class Target:
    """What a worker is to load.

    Attributes:
        name: the reward's name, for messages.
        path: dotted path or ``file.py:name``; None if the object itself is sent.
        pickled: the object, pickled.
        arguments: constructor arguments, if it is a class.
    """

    name: str
    path: str | None = None
    pickled: bytes | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Description:
    """What a worker found out about the function it loaded.

    Attributes:
        required: columns that it can't be called without.
        accepts: keyword arguments it takes; None if it takes all.
        per_completion: whether it is to be called with one completion at a time.
        checks_references: whether it has a ``check_references``.
    """

    required: tuple[str, ...]
    accepts: frozenset[str] | None
    per_completion: bool
    checks_references: bool


@dataclass(frozen=True)
class Refusal:
    """The user's mistake, in words: the function can't be loaded, or a reference not be used."""

    text: str


@dataclass(frozen=True)
class Failure:
    """A call without a result.

    Attributes:
        kind: the function "raised", returned something "invalid", ran into the "timeout", or its
            worker "died".
        text: what happened, with the worker's traceback where there is one.
    """

    kind: Literal["raised", "invalid", "timeout", "died"]
    text: str


Outcome = float | None | Failure
Arguments = dict[str, list[Any]]


@dataclass(frozen=True)
class ScoreRequest:
    """Call the function.

    Attributes:
        count: number of completions.
        arguments: what the function takes of prompts, completions, completion_ids and columns,
            all of this length.
        one_by_one: call it for each completion by itself.
        time_limit: seconds for each call.
    """

    count: int
    arguments: Arguments
    one_by_one: bool
    time_limit: float


@dataclass(frozen=True)
class CheckRequest:
    """Check the references in the columns of a whole data set."""

    columns: Arguments


@dataclass(frozen=True)
class ScoreReply:
    """Outcomes of the next completions, in order; or one failure for all of them."""

    outcomes: list[Outcome] | Failure
