"""The rewards of a batch of completions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RewardTable:
    """Rewards of M completions, by function and in total.

    Attributes:
        per_function: name → M rewards; NaN where the function does not apply (it gave None, or
            was skipped).
        total: M sums of weight · reward over the functions that apply; NaN where none does. A
            function with weight 0 is recorded only: it neither adds nor makes a total apply.
        errors: name → number of calls that were given up; 0 if all went well. For a
            ``per_completion`` function each completion is a call.
    """

    per_function: dict[str, list[float]]
    total: list[float]
    errors: dict[str, int]

    def joined(self, other: "RewardTable") -> "RewardTable":
        """The rewards of other functions for the same completions added to these."""
        totals = {"own": self.total, "other": other.total}
        return RewardTable(
            self.per_function | other.per_function,
            weighted_total(totals, dict.fromkeys(totals, 1.0), len(self.total)),
            self.errors | other.errors,
        )


def weighted_total(
    per_function: Mapping[str, Sequence[float]], weights: Mapping[str, float], count: int
) -> list[float]:
    """Σ_f weight_f · reward_f over the functions that apply, for each of ``count`` completions."""
    total = [math.nan] * count
    for name, rewards in per_function.items():
        weight = weights[name]
        if weight == 0:
            continue
        for row, reward in enumerate(rewards):
            if not math.isnan(reward):
                so_far = 0.0 if math.isnan(total[row]) else total[row]
                total[row] = so_far + weight * reward
    return total
