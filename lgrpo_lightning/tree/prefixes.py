"""How many leading tokens the completions of a group share, pair by pair.

Legend: B prompts, G completions of a group, T completion tokens, R = B·G rows.
"""

import torch
from torch import Tensor


def prefix_order(ids: Tensor, mask: Tensor) -> Tensor:
    """The depth-first order of each group's leaves: completions sorted lexicographically.

    Padding sorts before every token, so a strict prefix comes right before its extensions, and
    the completions of one process set are neighbours.

    Args:
        ids: [B, G, T] long.
        mask: [B, G, T] bool.

    Returns:
        [B, G] long: ``order[b, k]`` is the k-th completion of group b; ties keep their order.
    """
    num_groups, group_size, _ = ids.shape
    # A padded position must be smaller than any token: the smallest long is nobody's token.
    tokens = ids.long().masked_fill(~mask, torch.iinfo(torch.long).min)
    group = torch.arange(num_groups, device=ids.device).view(-1, 1, 1).expand(-1, group_size, 1)
    keys = torch.cat([group, tokens], dim=-1).flatten(0, 1)  # [R, 1 + T]
    ranks: Tensor = torch.unique(keys, dim=0, sorted=True, return_inverse=True)[1]
    return ranks.view(num_groups, group_size).argsort(dim=-1, stable=True)


def neighbour_overlaps(ids: Tensor, mask: Tensor, order: Tensor) -> Tensor:
    """Tokens that each completion shares with the one before it in ``order``.

    Args:
        ids: [B, G, T] long.
        mask: [B, G, T] bool.
        order: [B, G] long, of :func:`prefix_order`.

    Returns:
        [B, G] long, along ``order``; 0 for the first of each group.
    """
    num_groups, group_size, length = ids.shape
    rows = order + torch.arange(num_groups, device=ids.device).unsqueeze(1) * group_size  # [B, G]
    ids, mask = ids.flatten(0, 1)[rows], mask.flatten(0, 1)[rows]
    agree = torch.zeros(num_groups, group_size, length + 1, dtype=torch.uint8, device=ids.device)
    agree[:, 1:, :length] = (ids[:, 1:] == ids[:, :-1]) & mask[:, 1:] & mask[:, :-1]
    return agree.argmin(dim=-1)  # the first 0; the spare last column always holds one


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
