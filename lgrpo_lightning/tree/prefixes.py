"""How many leading tokens the completions of a group share, pair by pair.

Legend: B prompts, G completions of a group, T completion tokens, R = B·G rows.
"""

import torch
from torch import Tensor


def prefix_order(tokens: Tensor) -> Tensor:
    """The depth-first order of each group's leaves: completions sorted lexicographically.

    Padding sorts before every token, so a strict prefix comes right before its extensions, and
    the completions of one process set are neighbours.

    Args:
        tokens: [B, G, T] long, with a value below every token at padding.

    Returns:
        [B, G] long: ``order[b, k]`` is the k-th completion of group b; ties keep their order.
    """
    num_groups, group_size, length = tokens.shape
    if length == 0:  # torch.unique refuses rows without columns
        return torch.arange(group_size, device=tokens.device).expand(num_groups, -1)
    # One sort over the rows of all groups also ranks the rows within each group.
    rows = tokens.flatten(0, 1)  # [R, T]
    ranks: Tensor = torch.unique(rows, dim=0, sorted=True, return_inverse=True)[1]
    return ranks.view(num_groups, group_size).argsort(dim=-1, stable=True)


def neighbour_overlaps(tokens: Tensor, lengths: Tensor, order: Tensor) -> Tensor:
    """Tokens that each completion shares with the one before it in ``order``.

    Args:
        tokens: [B, G, T] long, with a value below every token at padding.
        lengths: [B, G] long, tokens of each completion.
        order: [B, G] long, of :func:`prefix_order`.

    Returns:
        [B, G] long, along ``order``; 0 for the first of each group.
    """
    num_groups, group_size, length = tokens.shape
    first = torch.arange(num_groups, device=tokens.device).unsqueeze(1) * group_size
    rows = (order + first).flatten()  # [R]
    ordered = tokens.flatten(0, 1).index_select(0, rows).view_as(tokens)
    agree = torch.zeros(num_groups, group_size, length + 1, dtype=torch.uint8, device=tokens.device)
    agree[:, 1:, :length] = ordered[:, 1:] == ordered[:, :-1]
    # The first 0; the spare last column always holds one. Padding agrees with padding, hence the
    # bound by the length.
    return torch.minimum(agree.argmin(dim=-1), lengths.gather(1, order))


def pairwise_overlaps(neighbours: Tensor, lengths: Tensor, order: Tensor) -> Tensor:
    """Tokens that any two completions of a group share.

        overlap(order[j], order[k]) = min { neighbours[j+1], …, neighbours[k] }   for j < k

    Args:
        neighbours: [B, G] long, of :func:`neighbour_overlaps`.
        lengths: [B, G] long, tokens of each completion, in the original order.
        order: [B, G] long.

    Returns:
        [B, G, G] long, in the original order, symmetric; the diagonal is ``lengths``.
    """
    num_groups, group_size = order.shape
    above = torch.ones(group_size, group_size, dtype=torch.bool, device=order.device).triu(1)
    unbounded = torch.iinfo(torch.long).max
    runs = neighbours.unsqueeze(1).expand(-1, group_size, -1).masked_fill(~above, unbounded)
    upper = runs.cummin(dim=-1).values.masked_fill(~above, 0)
    ordered = upper + upper.transpose(1, 2)
    place = order.argsort(dim=-1)  # [B, G], where each completion stands in ``order``
    rows = torch.arange(num_groups, device=order.device).view(-1, 1, 1)
    overlaps = ordered[rows, place.unsqueeze(2), place.unsqueeze(1)]
    overlaps.diagonal(dim1=1, dim2=2).copy_(lengths)
    return overlaps
