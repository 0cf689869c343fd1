"""What is to be sampled, as the ways of decoding take it.

Legend: B prompts, P prompt tokens, G completions of a group, R = B·G rows, T completion tokens at
most.
"""

from dataclasses import dataclass

from torch import Tensor

from lgrpo_lightning.rollout.distribution import TokenDistribution
from lgrpo_lightning.rollout.endings import Endings


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be sampled.

    Args:
        prompt_ids: [B, P] long, left-padded.
        prompt_mask: [B, P] bool.
        group_size: G.
        max_new_tokens: T.
        slots: rows that run at a time, at most.
        distribution: draws tokens.
        endings: tells which rows have ended.
        noise: [R, T, 2], what is drawn for each token.
        pad_token: fills the completions up.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    group_size: int
    max_new_tokens: int
    slots: int
    distribution: TokenDistribution
    endings: Endings
    noise: Tensor
    pad_token: int

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.prompt_ids) * self.group_size

    @property
    def max_prompts(self) -> int:
        """Prompts held at a time; stragglers of ended groups keep theirs."""
        return min(2 * -(-self.slots // self.group_size), len(self.prompt_ids))
