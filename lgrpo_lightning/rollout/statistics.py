"""What is worth logging of a rollout, as sums and counts."""

from torch import Tensor

from lgrpo_lightning.rollout.assemble import zero_variance_groups
from lgrpo_lightning.rollout.completions import Completions
from lgrpo_lightning.tree import ProcessTree

Totals = dict[str, tuple[Tensor | float, Tensor | float]]


def sample_totals(
    completions: Completions, rewards: Tensor, breakdown: dict[str, Tensor]
) -> Totals:
    """(sum, count) pairs of what was sampled; their ratios, over all processes, are means.

    - ``reward``, ``rewards/<function>``: over the completions it applied to,
    - ``reward_std``: over groups, of the deviation within the group,
    - ``zero_variance_groups``: share of groups that teach nothing,
    - ``length``: tokens per completion; ``truncated``: share of completions cut off.

    Args:
        completions: of B groups.
        rewards: [B, G], NaN where no function applied.
        breakdown: per function [B, G].
    """
    groups, count = len(rewards), rewards.numel()
    return {
        "reward": known_total(rewards),
        "reward_std": (group_deviation(rewards).sum(), groups),
        "zero_variance_groups": (zero_variance_groups(rewards).sum(), groups),
        "length": (completions.mask.sum(), count),
        "truncated": ((~completions.finished).sum(), count),
        **{f"rewards/{name}": known_total(values) for name, values in breakdown.items()},
    }


def rollout_totals(tree: ProcessTree, errors: dict[str, int]) -> Totals:
    """(sum, count) pairs of what is trained on.

    - ``path_depth``, ``intermediate_proportion``: over completions (arXiv 2509.21154, Section 3),
    - ``unique_tokens``: share of tokens left when each node of the tree counts once,
    - ``reward_errors/<function>``: skipped calls per process.
    """
    completions = tree.path_depth.numel()
    return {
        "path_depth": (tree.path_depth.sum(), completions),
        "intermediate_proportion": (tree.intermediate_proportion.float().sum(), completions),
        "unique_tokens": (tree.num_nodes.sum(), tree.mask.sum()),
        **{f"reward_errors/{name}": (float(count), 1.0) for name, count in errors.items()},
    }


def known_total(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count of what is not NaN."""
    return values.nansum(), (~values.isnan()).sum()


def group_deviation(rewards: Tensor) -> Tensor:
    """Sample standard deviation within each group, [B, G] to [B]; 0 for less than two rewards."""
    known = ~rewards.isnan()
    centred = (rewards - rewards.nanmean(dim=1, keepdim=True)).nan_to_num(0.0)
    return (centred.square().sum(dim=1) / (known.sum(dim=1) - 1).clamp(min=1)).sqrt()
