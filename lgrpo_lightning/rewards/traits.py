"""What a reward function may tell its runner about itself.

The runner reads three optional attributes, on a function or on a class:

- ``per_completion = True``: a completion's reward depends on this completion alone. It is called
  with one completion at a time, on several workers if there are, and when the time runs out only
  the completion that hung is given up.
- ``check_references(columns)``: raises ValueError if the data set's columns hold a reference that
  can't be used. Called once, before training.
- ``warm_up()``: called once in the worker before the clock runs, e.g. to import a slow library.
"""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
Columns = dict[str, list[Any]]


def reward_traits(
    *,
    per_completion: bool = False,
    check_references: Callable[[Columns], None] | None = None,
    warm_up: Callable[[], None] | None = None,
) -> Callable[[Function], Function]:
    """Decorate a reward function with the attributes above.

    Args:
        per_completion: whether each completion may be scored on its own.
        check_references: checks the columns of a whole data set.
        warm_up: prepares the worker process.

    Returns:
        A decorator that gives the same function back.

    Example::

        @reward_traits(per_completion=True)
        def brevity(prompts, completions, completion_ids, **columns):
            return [-len(ids) / 1000 for ids in completion_ids]
    """

    def decorate(function: Function) -> Function:
        function.__dict__["per_completion"] = per_completion
        if check_references is not None:
            function.__dict__["check_references"] = check_references
        if warm_up is not None:
            function.__dict__["warm_up"] = warm_up
        return function

    return decorate
