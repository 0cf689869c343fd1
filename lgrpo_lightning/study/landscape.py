"""The trap: a landscape in which the way to the best reward begins with a prefix that looks bad.

Legend: R runs, G completions of a group, T tokens of a completion, N nodes of the binary tree.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Trap:
    """Completions of 1 + depth binary tokens. The first one chooses a way.

    - 0, the easy way: the reward is a coin that shows 1 with probability ``easy``, whatever
      follows.
    - 1, the skilled way: the reward is 1 if all of the following ``depth`` tokens are 1, else 0.
      The policy begins with probability ``skill`` for each of them, so with skill^depth for all.

    While skill^depth < easy, the first token of the skilled way has a negative step advantage,
    although it is the only way to a reward of 1 each time.

    Args:
        depth: tokens that have to be right on the skilled way.
        easy: probability of a reward on the easy way; 0 takes the trap away.
        skill: probability of each right token at the start.

    Raises:
        ValueError: if an argument is out of range.
    """

    depth: int
    easy: float = 0.5
    skill: float = 0.3

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, got {self.depth}")
        if not 0 <= self.easy < 1:
            raise ValueError(f"easy must be in [0, 1), got {self.easy}")
        if not 0 < self.skill < 1:
            raise ValueError(f"skill must be between 0 and 1, got {self.skill}")

    @property
    def length(self) -> int:
        """T, tokens of a completion."""
        return 1 + self.depth

    @property
    def num_nodes(self) -> int:
        """N, contexts in which a token is chosen; node n is followed by 2n + 1 and 2n + 2."""
        return (1 << self.length) - 1

    def first_logits(self) -> Tensor:
        """[N], log-odds of token 1 in each context before training: even, or those of a skill."""
        logits = torch.zeros(self.num_nodes)
        for node in range(2, self.num_nodes):
            first = node
            while first > 2:
                first = (first - 1) // 2
            if first == 2:
                logits[node] = math.log(self.skill / (1 - self.skill))
        return logits

    def contexts(self, completion_ids: Tensor) -> Tensor:
        """The node in which each token was chosen, [R, G, T] long to [R, G, T] long."""
        nodes = torch.zeros_like(completion_ids)
        for place in range(1, self.length):
            nodes[..., place] = 2 * nodes[..., place - 1] + 1 + completion_ids[..., place - 1]
        return nodes

    def rewards(self, completion_ids: Tensor, uniform: Tensor) -> Tensor:
        """Rewards of completions.

        Args:
            completion_ids: [R, G, T] long, 0 or 1.
            uniform: [R, G] in [0, 1), the coins of the easy way.

        Returns:
            [R, G] float, 0 or 1.
        """
        skilled = completion_ids[..., 0] == 1
        return torch.where(skilled, completion_ids[..., 1:].all(-1), uniform < self.easy).float()

    def solution_probability(self, probabilities: Tensor) -> Tensor:
        """How likely the policy takes the skilled way with every token right.

        Args:
            probabilities: [R, N], of token 1 in each context.

        Returns:
            [R].
        """
        # The path of ones: 0, 2, 6, 14 …
        path = [2**place - 2 for place in range(1, self.length + 1)]
        return probabilities[:, path].prod(-1)
