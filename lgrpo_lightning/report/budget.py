"""How much of a run goes into the page, and which part of it where not all does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_CURVE_NUMBERS = 300_000  # about 2.4 MB
_TREE_BYTES = 6_500_000
_COMPLETION_BYTES = 3_500_000
_EVALUATION_BYTES = 1_500_000


@dataclass(frozen=True)
class Budget:
    """What one run may take of the page; all runs together stay below 15 MB.

    Args:
        curve_numbers: values in all its curves.
        tree_bytes: of its process trees, as JSON.
        completion_bytes: of its training completions, as JSON.
        evaluation_bytes: of its evaluated problems, as JSON.
    """

    curve_numbers: int = _CURVE_NUMBERS
    tree_bytes: int = _TREE_BYTES
    completion_bytes: int = _COMPLETION_BYTES
    evaluation_bytes: int = _EVALUATION_BYTES

    @classmethod
    def of_one_run(cls, runs: int) -> "Budget":
        """An equal share for each of so many runs."""
        return cls(
            curve_numbers=_CURVE_NUMBERS // runs,
            tree_bytes=_TREE_BYTES // runs,
            completion_bytes=_COMPLETION_BYTES // runs,
            evaluation_bytes=_EVALUATION_BYTES // runs,
        )


def spread(total: int, wanted: int) -> list[int]:
    """Return ``wanted`` of the places 0 … total-1, evenly spread, the first and last among them.

    Example::

        >>> spread(10, 4)
        [0, 3, 6, 9]
    """
    if wanted >= total:
        return list(range(total))
    if wanted <= 1:
        return list(range(wanted))
    return [round(place * (total - 1) / (wanted - 1)) for place in range(wanted)]


def choose_within(sizes: Sequence[int], budget: int) -> list[int]:
    """Return evenly spread places whose sizes add up to no more than the budget.

    Example::

        >>> choose_within([10, 10, 10, 10, 10], budget=30)
        [0, 2, 4]
    """
    wanted = len(sizes)
    while True:
        chosen = spread(len(sizes), wanted)
        used = sum(sizes[place] for place in chosen)
        if used <= budget:
            return chosen
        wanted = min(wanted - 1, math.floor(wanted * budget / used))
