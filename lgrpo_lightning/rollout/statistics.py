"""What is worth logging of a rollout, as sums and counts."""

from torch import Tensor

from lgrpo_lightning.rollout.assemble import zero_variance_groups
from lgrpo_lightning.rollout.record import Rollout
from lgrpo_lightning.tree import ProcessTree

Totals = dict[str, tuple[Tensor | float, Tensor | float]]


def rollout_totals(rollout: Rollout, tree: ProcessTree, errors: dict[str, int]) -> Totals:
    """(sum, count) pairs of a rollout; their ratios, over all processes, are means.

    - ``reward``, ``rewards/<function>``: over the completions it applied to,
    - ``reward_std``: over groups, of the deviation within the group,
    - ``zero_variance_groups``: share of groups that teach nothing,
    - ``length``: tokens per completion; ``truncated``: share of completions cut off,
    - ``path_depth``, ``intermediate_proportion``: over completions (arXiv 2509.21154, Section 3),
    - ``unique_tokens``: share of tokens left when each node of the tree counts once,
    - ``reward_errors/<function>``: skipped calls per process.
    """
    completions = rollout.num_completions
    groups = len(rollout.rewards)
    totals: Totals = {
        "reward": known_total(rollout.rewards),
        "reward_std": (group_deviation(rollout.rewards).sum(), groups),
        "zero_variance_groups": (zero_variance_groups(rollout.rewards).sum(), groups),
        "length": (rollout.completion_mask.sum(), completions),
        "truncated": ((~rollout.finished).sum(), completions),
        "path_depth": (tree.path_depth.sum(), completions),
        "intermediate_proportion": (tree.intermediate_proportion.float().sum(), completions),
        "unique_tokens": (tree.num_nodes.sum(), tree.mask.sum()),
    }
    for name, values in rollout.reward_breakdown.items():
        totals[f"rewards/{name}"] = known_total(values)
    for name, count in errors.items():
        totals[f"reward_errors/{name}"] = (float(count), 1.0)
    return totals


def known_total(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count of what is not NaN."""
    return values.nansum(), (~values.isnan()).sum()


def group_deviation(rewards: Tensor) -> Tensor:
    """Sample standard deviation within each group, [B, G] to [B]; 0 for less than two rewards."""
    known = ~rewards.isnan()
    centred = (rewards - rewards.nanmean(dim=1, keepdim=True)).nan_to_num(0.0)
    return (centred.square().sum(dim=1) / (known.sum(dim=1) - 1).clamp(min=1)).sqrt()
