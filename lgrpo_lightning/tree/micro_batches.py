"""Cutting a rollout into micro-batches whose unique tokens are balanced.

Legend: B prompts, G completions of a group, R = B·G completions.
"""

import torch
from torch import Tensor

from lgrpo_lightning.tree.process_tree import ProcessTree


def balanced_micro_batches(
    tree: ProcessTree, prompt_lengths: Tensor, num_micro_batches: int
) -> list[Tensor]:
    """Cut B·G completions into micro-batches of equal numbers of completions.

    Where the groups can be dealt out whole, they are, the largest first and each to the
    micro-batch with the fewest unique tokens that has room left. Otherwise the completions are cut
    in depth-first order, group after group, so that those of one micro-batch share what they can.

    Args:
        tree: the prefix trees of the rollout.
        prompt_lengths: [B] long, tokens of each prompt.
        num_micro_batches: how many there are to be, a divisor of B·G.

    Returns:
        Row numbers over B·G, [B·G / num_micro_batches] long each, completions of one group next to
        each other. The same rollout always gives the same micro-batches.

    Raises:
        ValueError: if the completions cannot be divided equally.
    """
    num_groups, group_size = tree.order.shape
    if num_micro_batches < 1 or (num_groups * group_size) % num_micro_batches:
        raise ValueError(
            f"{num_groups} prompts x {group_size} completions cannot be cut into "
            f"{num_micro_batches} micro-batches of equal size; take a divisor of "
            f"{num_groups * group_size}"
        )
    device = tree.order.device
    rows = tree.order + torch.arange(num_groups, device=device).unsqueeze(1) * group_size  # [B, G]
    if num_groups % num_micro_batches:
        return list(rows.flatten().chunk(num_micro_batches))
    sizes = (tree.num_nodes + prompt_lengths.to(device)).tolist()
    dealt = deal_groups(sizes, num_micro_batches)
    return [rows[torch.tensor(groups, device=device)].flatten() for groups in dealt]


def deal_groups(sizes: list[int], num_hands: int) -> list[list[int]]:
    """Deal groups into hands of equal number and similar total size.

    Returns:
        For each hand its groups, in their original order.
    """
    hands: list[list[int]] = [[] for _ in range(num_hands)]
    totals = [0] * num_hands
    for group in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        room = [hand for hand in range(num_hands) if len(hands[hand]) < len(sizes) // num_hands]
        hand = min(room, key=totals.__getitem__)
        hands[hand].append(group)
        totals[hand] += sizes[group]
    return [sorted(hand) for hand in hands]
