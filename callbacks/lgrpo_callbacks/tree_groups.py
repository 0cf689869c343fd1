"""Puts the completions of a group together again, which may be spread over micro-batches.

Legend: M completions of a micro-batch, T completion tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Completion(NamedTuple):
    """One completion of a group.

    Attributes:
        outputs: what the training step with it returned.
        row: its place there.
        reward: NaN where no reward function applied.
        shares: whether it shares a token with another completion of its group.
    """

    outputs: Mapping[str, Any]
    row: int
    reward: float
    shares: bool


@dataclass
class Group:
    """The completions of one prompt, in the order in which they were trained on.

    Attributes:
        number: which prompt of the rollout.
        size: how many completions it has in all; None where only the optimizer step's end tells.
        lost: how many of them came before the checkpoint from which the run was resumed.
        completions: those seen so far.
    """

    number: int
    size: int | None
    lost: int = 0
    completions: list[Completion] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """How many completions came by, in this run or before it was resumed."""
        return len(self.completions) + self.lost

    @property
    def is_flat(self) -> bool:
        """Whether no two completions share a token."""
        return not any(completion.shares for completion in self.completions)

    @property
    def rewards(self) -> list[float]:
        """The rewards that are known."""
        rewards = (completion.reward for completion in self.completions)
        return [reward for reward in rewards if not math.isnan(reward)]

    @property
    def has_zero_variance(self) -> bool:
        """Whether all rewards are equal, so that nothing can be learned."""
        return len(set(self.rewards)) < 2


class GroupCollector:
    """Collects the completions of groups from micro-batches.

    Where ``training_step`` returns ``group_size``, a group is whole once it has that many
    completions, be it over several optimizer steps; elsewhere at the end of an optimizer step.

    Args:
        unfinished: of each group that was begun before the run was resumed, how many completions
            were seen. They are no longer there, so such a group never becomes whole.
    """

    def __init__(self, unfinished: Mapping[int, int]) -> None:
        self._lost = dict(unfinished)
        self._open: dict[int, Group] = {}

    def add(self, outputs: Mapping[str, Any]) -> list[Group]:
        """Take up a micro-batch and return the groups that are whole with it.

        Args:
            outputs: ``set_sizes`` [M, T], ``mask`` [M, T] bool, ``rewards``, ``group`` [M] and,
                where given, ``group_size``.
        """
        size: int | None = outputs.get("group_size")
        shares = ((outputs["set_sizes"] > 1) & outputs["mask"].bool()).any(dim=1).tolist()
        columns = zip(outputs["group"].tolist(), outputs["rewards"].tolist(), shares, strict=True)
        whole = []
        for row, (number, reward, shared) in enumerate(columns):
            if number not in self._open:
                self._open[number] = Group(number, size, self._lost.pop(number, 0))
            group = self._open[number]
            group.completions.append(Completion(outputs, row, reward, shared))
            if group.seen == size:
                del self._open[number]
                whole += [] if group.lost else [group]
        return whole

    def end_step(self) -> list[Group]:
        """Return the groups that are whole because the optimizer step has ended."""
        ended = [group for group in self._open.values() if group.size is None]
        for group in ended:
            del self._open[group.number]
        return [group for group in ended if not group.lost]

    @property
    def unfinished(self) -> dict[int, int]:
        """Of each group that is not whole yet, how many completions were seen."""
        return self._lost | {number: group.seen for number, group in self._open.items()}
