"""Statistics of a group's process tree that follow from the sizes of its process sets.

λ(i,t) is the set of completions of a group that share completion i through token t; a process step
is a run of tokens with one and the same set (Sullivan & Koller, arXiv 2509.21154, Section 3).

Legend: M completions of a micro-batch, T completion tokens.
"""

from torch import Tensor


def path_depth(set_sizes: Tensor, mask: Tensor) -> Tensor:
    """Process steps on the way of each completion: 1 if it shares nothing, 0 without tokens.

    Args:
        set_sizes: [M, T] long, |λ(i,t)|.
        mask: [M, T] bool, the tokens that count, a run from the left in every row.

    Returns:
        [M] long.

    Example::

        >>> import torch
        >>> path_depth(torch.tensor([[3, 2, 2, 1], [3, 1, 0, 0]]), torch.tensor([[1, 1, 1, 1],
        ...     [1, 1, 0, 0]]).bool())
        tensor([3, 2])
    """
    changes = set_sizes[:, 1:].ne(set_sizes[:, :-1]) & mask[:, 1:]
    return mask[:, :1].sum(dim=1) + changes.sum(dim=1)


def intermediate_proportion(set_sizes: Tensor, mask: Tensor) -> Tensor:
    """Share of a completion's tokens with |λ(i,t)| > 1; 0 without tokens.

    Args:
        set_sizes: [M, T] long, |λ(i,t)|.
        mask: [M, T] bool, the tokens that count.

    Returns:
        [M] float32.
    """
    return ((set_sizes > 1) & mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def advantage_weights(set_sizes: Tensor, mask: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """The weight |a| of every token in GRPO's policy gradient, and what λ takes off it.

        |a_i| · (1 − 1/|λ(i,t)|) is removed: λ-GRPO gives the token |a_i| / |λ(i,t)|   (Eq. 9)

    Args:
        set_sizes: [M, T] long, |λ(i,t)|.
        mask: [M, T] bool, the tokens that count.
        advantages: [M], a_i.

    Returns:
        Weight and removed weight, both [M, T]; off the mask they may be anything.
    """
    weight = advantages.abs().unsqueeze(1).expand(mask.shape)
    return weight, weight * (1 - 1 / set_sizes.clamp(min=1))
