"""What the process sets cost: building the trees of a rollout, in seconds."""

import time
from dataclasses import dataclass
from statistics import median

import torch

from lgrpo_lightning.tree import ProcessTree

_REPEATS = 20
_VOCABULARY = 10  # few tokens, so that completions share prefixes


@dataclass
class RolloutShape:
    """The size of a rollout.

    Args:
        prompts: B.
        group_size: G.
        length: T, tokens of a usual completion.
    """

    prompts: int
    group_size: int
    length: int

    def tree_seconds(self) -> float:
        """Median time to find the process sets of such a rollout and their weights 1/|λ|."""
        shape = (self.prompts, self.group_size, self.length)
        ids = torch.randint(_VOCABULARY, shape, generator=torch.Generator().manual_seed(0))
        mask = torch.ones(shape, dtype=torch.bool)
        times = []
        for _ in range(_REPEATS):
            start = time.perf_counter()
            ProcessTree.from_completions(ids, mask).weights()
            times.append(time.perf_counter() - start)
        return median(times)
