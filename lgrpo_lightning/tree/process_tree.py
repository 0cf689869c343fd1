"""Process sets of a group: which completions share a prefix, token by token.

    λ(i,t) = { j : y(j) agrees with y(i) on tokens 0 … t }        |λ(i,t)| ∈ 1 … G

The sets are the nodes of the group's prefix tree (Sullivan & Koller, arXiv 2509.21154, Section 3).

Legend: B prompts, G completions of a group, T completion tokens.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lgrpo_lightning.tree.prefixes import neighbour_overlaps, pairwise_overlaps, prefix_order


@dataclass(frozen=True, eq=False)
class ProcessTree:
    """The prefix trees of B groups of G completions each.

    Everything follows from how many leading tokens two completions share:
    j ∈ λ(i,t) exactly when overlaps[i,j] > t. The overlaps come from sorting the completions and
    comparing neighbours, so the cost is O(B·G·T) apart from the sort, without a loop over tokens or
    completions, on any device. Exact duplicates, strict prefixes and empty completions need no
    special case; what counts is the mask, never the value at a padded position.

    Attributes:
        mask: [B, G, T] bool, the real tokens, a run from the left in every row.
        order: [B, G] long, the completions in depth-first order of the tree's leaves.
        overlaps: [B, G, G] long, leading tokens shared by two completions of a group; the diagonal
            holds the lengths.
        set_sizes: [B, G, T] long, |λ(i,t)|; 0 at padding.
    """

    mask: Tensor
    order: Tensor
    overlaps: Tensor
    set_sizes: Tensor

    @classmethod
    def from_completions(cls, completion_ids: Tensor, completion_mask: Tensor) -> "ProcessTree":
        """Build the trees of B groups.

        Args:
            completion_ids: [B, G, T] long; values at padding are ignored.
            completion_mask: [B, G, T] bool, True for real tokens, right-padded.

        Raises:
            ValueError: if the shapes differ or are not [B, G, T], or a row is not right-padded.
        """
        mask = checked_mask(completion_ids, completion_mask)
        lengths = mask.sum(-1)
        # A padded position must be smaller than any token; no tokenizer has the smallest long.
        tokens = completion_ids.long().masked_fill(~mask, torch.iinfo(torch.long).min)
        order = prefix_order(tokens)
        neighbours = neighbour_overlaps(tokens, lengths, order)
        overlaps = pairwise_overlaps(neighbours, lengths, order)

        # |λ(i,t)| = #{ j : overlaps[i,j] > t } = G - #{ j : overlaps[i,j] ≤ t }: starts at G and
        # falls by one where a completion leaves.
        num_groups, group_size, length = mask.shape
        changes = overlaps.new_zeros(num_groups, group_size, length + 1)
        changes[..., 0] = group_size
        changes.scatter_add_(2, overlaps, -torch.ones_like(overlaps))
        set_sizes = changes[..., :length].cumsum(-1)
        return cls(mask, order, overlaps, set_sizes)

    def weights(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """1 / |λ(i,t)|, the factor of Eq. 9; 0 at padding. [B, G, T]."""
        sizes = self.set_sizes.to(dtype)
        return sizes.reciprocal().masked_fill(~self.mask, 0)

    @cached_property
    def representatives(self) -> Tensor:
        """The first completion of each set, min λ(i,t); 0 at padding. [B, G, T] long.

        Together with the position it names the node: (i,t) and (j,t) lie on one node exactly when
        their representatives are equal.
        """
        num_groups, group_size, length = self.mask.shape
        others = torch.arange(group_size, device=self.mask.device).expand_as(self.overlaps)
        first = others.new_full((num_groups, group_size, length + 1), group_size)
        first.scatter_reduce_(2, self.overlaps, others, "amin")
        # Position t+1 of `first` holds the smallest j that leaves after token t; all that leave
        # later are in λ(i,t), too.
        running = first.flip(-1).cummin(-1).values.flip(-1)[..., 1:]
        return running.masked_fill(~self.mask, 0)

    def step_means(self, values: Tensor) -> Tensor:
        """Mean of ``values`` over λ(i,t): of rewards R̂(λ), of advantages Â(λ).

        Args:
            values: [B, G], one number per completion. A NaN makes the mean of every set that holds
                it NaN.

        Returns:
            [B, G, T] in the dtype of ``values``; 0 at padding.

        Raises:
            ValueError: if ``values`` is not [B, G].
        """
        if values.shape != self.mask.shape[:2]:
            raise ValueError(
                f"values must be [B, G] = {list(self.mask.shape[:2])}, got {list(values.shape)}"
            )
        spread = values.unsqueeze(-1).expand_as(self.mask)
        # Padding adds exact zeros to the first completion's nodes and is cleared at the end.
        spread = torch.where(self.mask, spread, torch.zeros_like(spread))
        sums = torch.zeros_like(spread).scatter_add_(1, self.representatives, spread)
        means = sums.gather(1, self.representatives) / self.set_sizes.clamp(min=1)
        return means.masked_fill(~self.mask, 0)

    @cached_property
    def path_depth(self) -> Tensor:
        """Process steps on the way of each completion, [B, G] long.

        A process step is a run of tokens with one and the same set. A completion that shares
        nothing has depth 1, an empty one 0. The tokens that the whole group shares are a step, too.
        """
        first = self.mask[..., :1]
        changes = self.set_sizes[..., 1:].ne(self.set_sizes[..., :-1]) & self.mask[..., 1:]
        return torch.cat([first, changes], dim=-1).sum(-1)

    @cached_property
    def intermediate_proportion(self) -> Tensor:
        """Share of a completion's tokens with |λ(i,t)| > 1, [B, G] float; 0 for an empty one."""
        return (self.set_sizes > 1).sum(-1) / self.mask.sum(-1).clamp(min=1)

    @cached_property
    def num_nodes(self) -> Tensor:
        """Nodes of each group's tree, the root left out, [B] long.

        This is the number of unique tokens, Σ_i Σ_t 1/|λ(i,t)|: each completion adds what it does
        not share with any completion before it.
        """
        shared = self.overlaps.tril(-1).amax(dim=-1)  # [B, G]
        return (self.overlaps.diagonal(dim1=1, dim2=2) - shared).sum(-1)


def checked_mask(completion_ids: Tensor, completion_mask: Tensor) -> Tensor:
    """The mask as bool, once it is known to describe right-padded groups.

    Raises:
        ValueError: if the shapes differ or are not [B, G, T], or a row is not right-padded.
    """
    if completion_ids.dim() != 3 or completion_ids.shape != completion_mask.shape:
        raise ValueError(
            "completion_ids and completion_mask must both be [B, G, T], got "
            f"{list(completion_ids.shape)} and {list(completion_mask.shape)}"
        )
    mask = completion_mask.bool()
    if bool((mask[..., 1:] & ~mask[..., :-1]).any()):
        raise ValueError(
            "completion_mask must be right-padded: every row a run of True followed by False"
        )
    return mask
