"""Packing groups of completions so that every shared token is there once.

A row holds one group after the other, without padding between them: the group's prompt, then the
nodes of its prefix tree in depth-first order. A node's position is its depth, and its subtree is
one run, so that token q may look at token k of its row exactly when

    k ≤ q < ends[k]        ends[k]: the first index after the subtree of k

Legend: B prompts, M completions, T completion tokens, P prompt tokens, R rows, L tokens of a row,
N nodes of all groups; k counts a group's completions in depth-first order, S of them.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from lgrpo_lightning.tree.paths import GroupPaths, group_paths
from lgrpo_lightning.tree.process_tree import ProcessTree


@dataclass(frozen=True, eq=False)
class PackedGroup:
    """One group within the rows.

    Attributes:
        start: where its prompt begins, counted over R·L.
        prompt_length: tokens of the prompt; its nodes follow directly.
        num_nodes: n, unique completion tokens.
        local: [S, T] long, the node of every step of its completions; 0 at padding.
        shared: [S] long, the steps that an earlier completion has, too.
        lengths: [S] long.
    """

    start: int
    prompt_length: int
    num_nodes: int
    local: Tensor
    shared: Tensor
    lengths: Tensor

    @property
    def node_start(self) -> int:
        """Where its nodes begin, counted over R·L."""
        return self.start + self.prompt_length

    @cached_property
    def paths(self) -> GroupPaths:
        """The ways to its leaves, batched for attention path by path."""
        found = group_paths(
            self.local.cpu(),
            self.shared.cpu(),
            self.lengths.cpu(),
            self.num_nodes,
            self.prompt_length,
        )
        return found.to(self.local.device)

    def to(self, device: torch.device) -> "PackedGroup":
        """The same with its tensors on a device."""
        return replace(
            self,
            local=self.local.to(device),
            shared=self.shared.to(device),
            lengths=self.lengths.to(device),
        )


@dataclass(frozen=True, eq=False)
class PackedTrees:
    """M completions of some groups in rows of unique tokens.

    Attributes:
        ids: [R, L] long; 0 at padding, which only ends rows.
        positions: [R, L] long, depth below the prompt's first token.
        ends: [R, L] long, first index of the row after the token's subtree; 0 at padding.
        parents: [N] long, over R·L: the token whose hidden state predicts each node.
        targets: [N] long, the nodes' tokens.
        nodes: [M, T] long, the node of every completion token; 0 at padding.
        mask: [M, T] bool, the real completion tokens.
        groups: where each group lies, in the order of the rows.
    """

    ids: Tensor
    positions: Tensor
    ends: Tensor
    parents: Tensor
    targets: Tensor
    nodes: Tensor
    mask: Tensor
    groups: tuple[PackedGroup, ...]

    def to(self, device: torch.device) -> "PackedTrees":
        """The same with its tensors on a device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "groups"}
        moved = {name: part.to(device) for name, part in moved.items()}
        return replace(self, **moved, groups=tuple(group.to(device) for group in self.groups))


def pack_trees(
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    groups: Tensor,
    max_tokens_per_row: int | None = None,
    multiple_of: int = 1,
) -> PackedTrees:
    """Pack M completions, whole groups or parts of groups, by their prefix trees.

    Args:
        prompt_ids: [B, P] long, left-padded.
        prompt_mask: [B, P] bool.
        completion_ids: [M, T] long, right-padded.
        completion_mask: [M, T] bool.
        groups: [M] long, the prompt of each completion.
        max_tokens_per_row: start a new row rather than go beyond; None for a single row.
        multiple_of: rows are padded to a multiple of this many tokens; with 1, a single row has no
            padding at all.

    Raises:
        ValueError: if a mask is not padded on its side, a prompt is empty, or one group alone is
            longer than a row.
    """
    used, slots = slots_of(groups)
    shape = (len(used), int(slots[1].max()) + 1, completion_ids.shape[1])
    ids = completion_ids.new_zeros(shape).index_put(slots, completion_ids)
    mask = completion_mask.new_zeros(shape).index_put(slots, completion_mask).bool()
    tree = ProcessTree.from_completions(ids, mask)
    prompts, prompt_mask = prompt_ids[used], checked_prompt_mask(prompt_mask[used])

    lengths = mask.sum(-1).gather(1, tree.order)  # [B, S], as all that follows in depth-first order
    shared = neighbour_overlaps(tree)
    own = lengths - shared  # nodes that no completion before has
    offsets = own.cumsum(1) - own
    steps = torch.arange(shape[2], device=ids.device)
    real = steps < lengths.unsqueeze(-1)  # [B, S, T]
    new = real & (steps >= shared.unsqueeze(-1))
    local = node_numbers(offsets, shared, steps).masked_fill(~real, 0)
    sizes = own.sum(1)

    prompt_lengths = prompt_mask.sum(1)
    row_of, start_of, width = fill_rows((prompt_lengths + sizes).tolist(), max_tokens_per_row)
    width = -(-width // multiple_of) * multiple_of
    starts = torch.tensor(start_of, device=ids.device) + width * torch.tensor(
        row_of, device=ids.device
    )
    node_starts = starts + prompt_lengths

    flat = torch.zeros((max(row_of) + 1) * width, dtype=torch.long, device=ids.device)
    row_ids, positions, ends = flat, flat.clone(), flat.clone()
    at = (starts - prompt_mask.shape[1] + prompt_lengths).unsqueeze(1) + torch.arange(
        prompt_mask.shape[1], device=ids.device
    )
    row_ids[at[prompt_mask]] = prompts[prompt_mask]
    positions[at[prompt_mask]] = (prompt_mask.cumsum(1) - 1)[prompt_mask]
    row_starts = torch.tensor(row_of, device=ids.device) * width
    group_ends = (node_starts + sizes - row_starts).unsqueeze(1)
    ends[at[prompt_mask]] = group_ends.expand_as(at)[prompt_mask]

    at = node_starts.view(-1, 1, 1) + local  # [B, S, T]
    ordered_ids = ids.gather(1, tree.order.unsqueeze(-1).expand(shape))
    row_ids[at[new]] = ordered_ids[new]
    positions[at[new]] = (prompt_lengths.view(-1, 1, 1) + steps).expand(shape)[new]
    subtree_ends = (node_starts - row_starts).view(-1, 1, 1) + local_ends(
        offsets, shared, sizes, steps
    )
    ends[at[new]] = subtree_ends[new]

    before = torch.cat([(node_starts - 1).view(-1, 1, 1).expand(-1, shape[1], 1), at[..., :-1]], -1)
    numbers = (sizes.cumsum(0) - sizes).view(-1, 1, 1) + local
    place = tree.order.argsort(1)[slots]  # [M]
    figures = zip(starts.tolist(), prompt_lengths.tolist(), sizes.tolist(), strict=True)
    packed = [
        PackedGroup(
            start=start,
            prompt_length=prompt,
            num_nodes=size,
            local=local[index],
            shared=shared[index],
            lengths=lengths[index],
        )
        for index, (start, prompt, size) in enumerate(figures)
    ]
    return PackedTrees(
        ids=row_ids.view(-1, width),
        positions=positions.view(-1, width),
        ends=ends.view(-1, width),
        parents=before[new],
        targets=ordered_ids[new],
        nodes=numbers.masked_fill(~real, 0)[slots[0], place],
        mask=mask[slots],
        groups=tuple(sorted(packed, key=lambda group: group.start)),
    )


def slots_of(groups: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The distinct groups, and for each completion its group's number and its place in there."""
    used, number, counts = torch.unique(groups, return_inverse=True, return_counts=True)
    order = number.argsort(stable=True)
    first = (counts.cumsum(0) - counts)[number[order]]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device) - first
    return used, (number, place)


def neighbour_overlaps(tree: ProcessTree) -> Tensor:
    """Tokens that each completion shares with the one before it in depth-first order, [B, S]."""
    rows = torch.arange(len(tree.order), device=tree.order.device).unsqueeze(1)
    overlaps = tree.overlaps[rows, tree.order, tree.order.roll(1, dims=1)]
    overlaps[:, 0] = 0
    return overlaps


def node_numbers(offsets: Tensor, shared: Tensor, steps: Tensor) -> Tensor:
    """The node of step t of each completion, 0 … n-1 within its group, [B, S, T].

    A step belongs to the last completion up to this one that has it as a node of its own.
    """
    count = torch.arange(offsets.shape[1], device=offsets.device).view(1, -1, 1)
    mine = steps >= shared.unsqueeze(-1)
    owners = torch.where(mine, count, 0).cummax(1).values
    return (offsets - shared).unsqueeze(-1).expand(owners.shape).gather(1, owners) + steps


def local_ends(offsets: Tensor, shared: Tensor, sizes: Tensor, steps: Tensor) -> Tensor:
    """The first node after the subtree of step t: where a later completion leaves the path above.

    Returns:
        [B, S, T] long, right wherever the step is the completion's own node.
    """
    leaves = shared.unsqueeze(-1) <= steps  # from here on, step t is another node
    after = torch.where(leaves, offsets.unsqueeze(-1), sizes.view(-1, 1, 1))
    last = sizes.view(-1, 1, 1).expand(-1, 1, len(steps))
    following = torch.cat([after[:, 1:], last], 1)
    return following.flip(1).cummin(1).values.flip(1)


def fill_rows(sizes: list[int], budget: int | None) -> tuple[list[int], list[int], int]:
    """Assign groups to rows, the largest first and each to the first row with room for it.

    Returns:
        The row and the place in it of each group, and the length of the longest row.

    Raises:
        ValueError: if one group alone does not fit into a row.
    """
    if budget is not None and max(sizes) > budget:
        raise ValueError(
            f"a group has {max(sizes)} unique tokens, prompt included, but max_tokens_per_row is "
            f"{budget}; raise it, or use more and smaller micro-batches"
        )
    fills: list[int] = []
    rows, starts = [0] * len(sizes), [0] * len(sizes)
    for group in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        limit = sum(sizes) if budget is None else budget
        row = next((r for r, used in enumerate(fills) if used + sizes[group] <= limit), len(fills))
        if row == len(fills):
            fills.append(0)
        rows[group], starts[group] = row, fills[row]
        fills[row] += sizes[group]
    return rows, starts, max(fills)


def checked_prompt_mask(mask: Tensor) -> Tensor:
    """The prompts' mask as bool, once every prompt is known to be left-padded and not empty.

    Raises:
        ValueError: otherwise.
    """
    mask = mask.bool()
    if mask.shape[1] == 0 or not bool(mask[:, -1].all()):
        raise ValueError("prompt_mask must be left-padded, and no prompt may be empty")
    if bool((mask[:, :-1] & ~mask[:, 1:]).any()):
        raise ValueError(
            "prompt_mask must be left-padded: every row a run of False followed by True"
        )
    return mask
