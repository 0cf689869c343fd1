"""Call a reward function and check what it returns; runs in the worker process."""

import inspect
import math
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set, Sized
from typing import Any, SupportsFloat

from lgrpo_lightning.rewards.runner.messages import Arguments, Failure

_WANTED = "return a list with one number, or None for 'does not apply', for each completion"


class InvalidRewardsError(ValueError):
    """A reward function returned something else than rewards."""


class Caller:
    """A reward function, plain or async, whose result is checked.

    Args:
        function: takes prompts, completions, completion_ids and columns as keyword arguments.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._loop: Any = None

    def rewards(self, arguments: Arguments, count: int) -> list[float | None] | Failure:
        """Rewards of ``count`` completions; whatever is raised becomes a Failure."""
        try:
            result = self.function(**arguments)
            if inspect.isawaitable(result):
                result = self._wait_for(result)
            return as_rewards(result, count)
        except InvalidRewardsError as error:
            return Failure("invalid", str(error))
        # SystemExit and the like are the function's doing too: the worker reports them and lives.
        except BaseException as error:
            return Failure("raised", traceback_of(error))

    def _wait_for(self, awaitable: Awaitable[Any]) -> Any:  # noqa: ANN401
        import asyncio

        if self._loop is None:  # one loop for all calls: sessions opened in one live on
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop.run_until_complete(awaitable)


def traceback_of(error: BaseException) -> str:
    """The traceback as Python prints it, without the frame that caught the error."""
    frames = error.__traceback__.tb_next if error.__traceback__ is not None else None
    return "".join(traceback.format_exception(error.with_traceback(frames))).rstrip()


def as_rewards(result: object, count: int) -> list[float | None]:
    """The function's result as floats and Nones.

    Args:
        result: a list, tuple, array or tensor of numbers (bools and scalars of numpy and torch
            included) and Nones.
        count: number of completions.

    Raises:
        InvalidRewardsError: for another type or length, for an element that is no number, and for
            NaN and infinity.
    """
    is_list_like = isinstance(result, Sized) and isinstance(result, Iterable)
    if not is_list_like or isinstance(result, str | bytes | Mapping | Set):
        raise InvalidRewardsError(f"it returned {_shown(result)}; {_WANTED}")
    elements = list(result)  # type: ignore[call-overload]
    if len(elements) != count:
        raise InvalidRewardsError(
            f"it returned {len(elements)} rewards for {count} completions; {_WANTED}"
        )
    names = ["its reward"] if count == 1 else [f"its reward {index}" for index in range(count)]
    return [_as_reward(element, name) for element, name in zip(elements, names, strict=True)]


def _as_reward(element: object, name: str) -> float | None:
    if element is None:
        return None
    if not isinstance(element, SupportsFloat):
        raise InvalidRewardsError(f"{name} is {_shown(element)}; {_WANTED}")
    try:
        reward = float(element)
    except (TypeError, ValueError, RuntimeError) as error:  # an array or tensor of several numbers
        raise InvalidRewardsError(f"{name} is {_shown(element)}: {error}; {_WANTED}") from None
    if not math.isfinite(reward):
        raise InvalidRewardsError(
            f"{name} is {reward}; rewards must be finite, and None says that a "
            "function does not apply"
        )
    return reward


def _shown(value: object) -> str:
    return f"{value!r:.100} ({type(value).__name__})"
