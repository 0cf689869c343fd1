"""From sampled and scored completions to a rollout: advantages, process sets, denominators."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from lgrpo_lightning.objective import group_advantages, row_denominators
from lgrpo_lightning.objective.advantages import AdvantageScale
from lgrpo_lightning.objective.denominators import Aggregation
from lgrpo_lightning.rollout.completions import Completions
from lgrpo_lightning.tree import ProcessTree


def alone(value: Tensor) -> Tensor:
    """What ``gather`` is for a single process: [*] to [1, *]."""
    return value.unsqueeze(0)


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

    def apply(
        self,
        completions: Completions,
        tree: ProcessTree,
        rewards: Tensor,
        gather: Callable[[Tensor], Tensor] = alone,
        rank: int = 0,
    ) -> GroupTerms:
        """The terms of B scored groups of this process.

        Args:
            completions: what was sampled.
            tree: of everything that was sampled.
            rewards: [B, G], NaN where no function applied.
            gather: gives the tensors of all W processes, [*] to [W, *].
            rank: which of them this process is.
        """
        loss_mask = completions.mask
        if self.mask_truncated:
            loss_mask = loss_mask & completions.finished.unsqueeze(-1)
            tree = ProcessTree.from_completions(completions.ids, loss_mask)
        advantages = group_advantages(rewards, self.advantage_scale)
        denominators = row_denominators(
            loss_mask, self.aggregation, self.norm_length, tree.set_sizes
        )
        # What spans groups spans processes, over which gradients are averaged, not summed.
        if self.advantage_scale == "batch":
            everyone = gather(rewards)
            advantages = group_advantages(everyone.flatten(0, 1), "batch").view_as(everyone)[rank]
        if self.aggregation == "token-mean":
            tokens = gather(loss_mask.sum().float()).mean().clamp(min=1)
            denominators = tokens.expand_as(denominators)
        return GroupTerms(
            loss_mask=loss_mask,
            tree=tree,
            advantages=advantages,
            denominators=denominators,
        )


def zero_variance_groups(rewards: Tensor) -> Tensor:
    """Groups whose rewards are all equal, so that they teach nothing. [B, G] to [B] bool."""
    known = ~rewards.isnan()
    highest = rewards.masked_fill(~known, -torch.inf).amax(dim=1)
    lowest = rewards.masked_fill(~known, torch.inf).amin(dim=1)
    return highest <= lowest
