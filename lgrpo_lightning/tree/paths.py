"""The paths of a packed group, in batches of similar shape for attention.

Attention runs over batches of leaves. A row of a batch is the path to one leaf: the nodes from
``skip`` on are queries, all of them are keys. Leaves that would make each other's rows longer than
a call of its own would cost go into different batches.

Legend: S leaves, T path tokens, n nodes of the group.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

# What another call of attention costs, in pairs of a query with a key: measured on a CPU with four
# heads of 64, where a call takes as long as about this many pairs.
CALL_COST = 4096


@dataclass(frozen=True)
class PathBatch:
    """Some leaves of a group whose paths are run together.

    Attributes:
        leaves: S, rows of the batch.
        length: T, tokens of its longest path.
        skip: tokens at the beginning of every path that are no queries here, since each is a node
            of a path in another row or batch.
    """

    leaves: int
    length: int
    skip: int


@dataclass(frozen=True, eq=False)
class GroupPaths:
    """All paths of a group, batch after batch.

    Attributes:
        batches: their shapes.
        nodes: [Σ S·T] long, the nodes along the paths of all batches; 0 after a path's end.
        queries: [Σ S·(T - skip)] long, those from ``skip`` on.
        firsts: [n] long, where in ``nodes`` each node comes as a query.
        repeats: [E] long, where in ``nodes`` a node comes again, as a key only.
        outputs: [n] long, where each node's output is among those of all batches, Σ S·(T - skip).
    """

    batches: tuple[PathBatch, ...]
    nodes: Tensor
    queries: Tensor
    firsts: Tensor
    repeats: Tensor
    outputs: Tensor

    def to(self, device: torch.device) -> "GroupPaths":
        """The same with its tensors on a device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "batches"}
        return replace(self, **{name: part.to(device) for name, part in tensors.items()})


def group_paths(
    local: Tensor, shared: Tensor, lengths: Tensor, num_nodes: int, prompt_length: int
) -> GroupPaths:
    """Batch the paths of one group.

    Args:
        local: [S, T] long, the node of every step, in depth-first order of the leaves; 0 at
            padding.
        shared: [S] long, the steps that an earlier leaf has, too.
        lengths: [S] long.
        num_nodes: n.
        prompt_length: tokens of the prompt, keys of every query.
    """
    starts, ends = shared.tolist(), lengths.tolist()
    # A duplicate or a strict prefix has no node of its own, so nobody asks for its path.
    leaves = [leaf for leaf in range(len(ends)) if ends[leaf] > starts[leaf]]
    members = batch_leaves(leaves, starts, ends, prompt_length)
    empty = local.new_zeros(0)
    nodes, real, mine, kept = [empty], [empty.bool()], [empty.bool()], [empty.bool()]
    batches = []
    for batch in members:
        rows = torch.tensor(batch, device=local.device)
        length, skip = max(ends[leaf] for leaf in batch), min(starts[leaf] for leaf in batch)
        batches.append(PathBatch(len(batch), length, skip))
        steps = torch.arange(length, device=local.device)
        exists = steps < lengths[rows].unsqueeze(1)  # [S, T]
        nodes.append(local[rows, :length].flatten())
        real.append(exists.flatten())
        mine.append((exists & (steps >= shared[rows].unsqueeze(1))).flatten())
        kept.append((steps >= skip).expand_as(exists).flatten())
    every, own, queries = torch.cat(nodes), torch.cat(mine), torch.cat(kept)
    places = own.nonzero()[:, 0]
    firsts = places.new_zeros(num_nodes).index_put((every[places],), places)
    return GroupPaths(
        batches=tuple(batches),
        nodes=every,
        queries=every[queries],
        firsts=firsts,
        repeats=(torch.cat(real) & ~own).nonzero()[:, 0],
        outputs=(queries.cumsum(0) - 1)[firsts],
    )


def batch_leaves(
    leaves: list[int], starts: list[int], ends: list[int], before: int
) -> list[list[int]]:
    """Put leaves together where the padding costs less than another call.

    Longest first, each leaf joins the batch to which it adds the least work, or opens a new one.

    Args:
        leaves: those to batch.
        starts: each leaf's first query.
        ends: each leaf's length.
        before: keys that every query has besides its path.
    """

    def work(count: int, start: int, end: int) -> int:
        return count * (end - start) * (before + end)

    batches: list[tuple[list[int], int, int]] = []  # members, first query, length
    for leaf in sorted(leaves, key=lambda item: -ends[item]):
        start, end = starts[leaf], ends[leaf]
        best, least = None, CALL_COST + work(1, start, end)
        for index, (members, first, last) in enumerate(batches):
            count = len(members)
            added = work(count + 1, min(first, start), last) - work(count, first, last)
            if added < least:
                best, least = index, added
        if best is None:
            batches.append(([leaf], start, end))
        else:
            members, first, last = batches[best]
            batches[best] = ([*members, leaf], min(first, start), last)
    return [members for members, _, _ in batches]
