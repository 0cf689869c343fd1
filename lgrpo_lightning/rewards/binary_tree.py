"""The reward of the paper's toy study: one path of a binary tree is the goal."""

import math
from collections.abc import Sequence

from lgrpo_lightning.rewards.completion import Completion, Prompt, completion_text


class BinaryTreeReward:
    """target_reward for the path T, negative for others that begin as T does, else positive.

    With ``shared`` = n: a path that is T gets ``target_reward``; every other path that shares T's
    first n tokens gets ``negative``; all others get ``positive``. So the way to T leads through a
    prefix whose mean reward is bad. Source: Sullivan and Koller, arXiv 2509.21154, toy study.

    Args:
        target: the path T, a string of L and R.
        shared: n, in tokens; 0 ≤ n < len(target).
        negative: reward r_neg of the paths that leave T late.
        positive: reward of the paths that leave T early.
        target_reward: reward of T.

    Raises:
        ValueError: for a target that is no path, n out of range or a reward that is not finite.

    Example::

        >>> reward = BinaryTreeReward("LLLL", shared=2, negative=-0.5)
        >>> reward(None, ["LLLL", "LLLR", "LRLL"], None)
        [1.0, -0.5, 0.7]
    """

    per_completion = True

    def __init__(
        self,
        target: str,
        shared: int,
        negative: float,
        positive: float = 0.7,
        target_reward: float = 1.0,
    ) -> None:
        if not target or set(target) - set("LR"):
            raise ValueError(f"target must be a string of L and R such as 'LLLL', got {target!r}")
        if not 0 <= shared < len(target):
            raise ValueError(f"shared must be in 0 … {len(target) - 1}, got {shared!r}")
        for name, value in (
            ("negative", negative),
            ("positive", positive),
            ("target_reward", target_reward),
        ):
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value!r}")
        self.target = target
        self.shared = shared
        self.negative = float(negative)
        self.positive = float(positive)
        self.target_reward = float(target_reward)

    def __call__(
        self,
        prompts: Sequence[Prompt] | None,
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]] | None,
        **columns: object,
    ) -> list[float]:
        """Score paths; white space between their letters is ignored.

        Raises:
            ValueError: for a completion that is no path of the tree.
        """
        return [self._reward("".join(completion_text(c).split())) for c in completions]

    def _reward(self, path: str) -> float:
        if len(path) != len(self.target) or set(path) - set("LR"):
            raise ValueError(
                f"the completion {path!r:.100} is no path of {len(self.target)} steps, each L or "
                "R; let the policy emit exactly these tokens"
            )
        if path == self.target:
            return self.target_reward
        if path[: self.shared] == self.target[: self.shared]:
            return self.negative
        return self.positive
