"""From sampled and scored completions to a rollout: advantages, process sets, denominators."""

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from lgrpo_lightning.objective import group_advantages, row_denominators
from lgrpo_lightning.objective.advantages import AdvantageScale
from lgrpo_lightning.objective.denominators import Aggregation
from lgrpo_lightning.rollout.completions import Completions
from lgrpo_lightning.tree import ProcessTree


@dataclass(frozen=True, eq=False)
class GroupTerms:
    """What the loss takes from whole groups.

    Legend: B prompts, G completions of a group, T completion tokens.

    Attributes:
        loss_mask: [B, G, T] bool, the tokens that carry loss.
        tree: the process tree of those tokens.
        advantages: [B, G].
        denominators: [B, G].
    """

    loss_mask: Tensor
    tree: ProcessTree
    advantages: Tensor
    denominators: Tensor


@dataclass(frozen=True)
class GroupRules:
    """How whole groups enter the loss.

    Args:
        aggregation: see :func:`~lgrpo_lightning.objective.row_denominators`.
        norm_length: the constant of ``seq-mean-token-sum-norm``, in tokens.
        advantage_scale: see :func:`~lgrpo_lightning.objective.group_advantages`.
        mask_truncated: leave truncated completions out of the loss and of the process tree; their
            rewards still count in the group's mean and deviation.

    Raises:
        ValueError: if a name is unknown.
    """

    aggregation: Aggregation
    norm_length: int
    advantage_scale: AdvantageScale
    mask_truncated: bool

    def __post_init__(self) -> None:
        """Check the names, before anything is sampled."""
        for name, value, known in (
            ("aggregation", self.aggregation, get_args(Aggregation)),
            ("advantage_scale", self.advantage_scale, get_args(AdvantageScale)),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got {value!r}")

    def apply(self, completions: Completions, rewards: Tensor) -> GroupTerms:
        """The terms of B scored groups; rewards are [B, G], NaN where no function applied."""
        loss_mask = completions.mask
        if self.mask_truncated:
            loss_mask = loss_mask & completions.finished.unsqueeze(-1)
        return GroupTerms(
            loss_mask=loss_mask,
            tree=ProcessTree.from_completions(completions.ids, loss_mask),
            advantages=group_advantages(rewards, self.advantage_scale),
            denominators=row_denominators(loss_mask, self.aggregation, self.norm_length),
        )


def zero_variance_groups(rewards: Tensor) -> Tensor:
    """Groups whose rewards are all equal, so that they teach nothing. [B, G] to [B] bool."""
    known = ~rewards.isnan()
    highest = rewards.masked_fill(~known, -torch.inf).amax(dim=1)
    lowest = rewards.masked_fill(~known, torch.inf).amin(dim=1)
    return highest <= lowest
