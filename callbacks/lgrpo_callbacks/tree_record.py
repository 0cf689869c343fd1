"""A group's process tree as plain values: a line of the file, and what a picture is made of.

Legend: G completions of a group, T completion tokens.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from lgrpo_callbacks.tree_groups import Completion, Group


class Node(TypedDict):
    """A process step: a run of tokens that the same completions share.

    ``depth`` is the position of its first token in the completion, ``members`` are completions of
    the group, ``mean_reward`` and ``advantage`` their means, R̂(λ) and Â(λ).
    """

    id: int
    parent: int | None
    depth: int
    tokens: list[str]
    set_size: int
    members: list[int]
    mean_reward: float
    advantage: float


class Leaf(TypedDict):
    """A completion and the process step with its last token; None if no token of it counts."""

    completion: int
    node: int | None
    reward: float | None
    advantage: float
    length: int
    truncated: bool


class TreeRecord(TypedDict):
    """The process tree of one group; nodes in depth-first order, NaN where no reward is known."""

    step: int
    epoch: int | None
    prompt: str
    group: int
    group_size: int
    mean_reward: float
    std_reward: float
    nodes: list[Node]
    leaves: list[Leaf]


class Path(NamedTuple):
    """A completion on its way through the tree.

    Attributes:
        ids: token ids that count.
        texts: their text pieces.
        set_sizes: |λ| at each of them.
        reward: NaN where no reward function applied.
        advantage: as the loss uses it.
    """

    ids: list[int]
    texts: list[str]
    set_sizes: list[int]
    reward: float
    advantage: float


def tree_record(group: Group, step: int, epoch: int) -> TreeRecord:
    """Return the process tree of a whole group.

    Raises:
        ValueError: if set sizes, token ids, texts and mask do not fit each other.
    """
    paths = [_path(completion) for completion in group.completions]
    nodes: list[Node] = []
    _grow(nodes, paths, range(len(paths)), 0, None)
    _check_set_sizes(group, nodes, paths)
    last = {member: node["id"] for node in nodes for member in node["members"]}
    first = group.completions[0]
    return TreeRecord(
        step=step,
        epoch=epoch,
        prompt=first.outputs["prompts"][first.row],
        group=group.number,
        group_size=len(paths),
        mean_reward=_mean(group.rewards),
        std_reward=statistics.stdev(group.rewards) if len(group.rewards) > 1 else math.nan,
        nodes=nodes,
        leaves=[
            Leaf(
                completion=number,
                node=last.get(number),
                reward=path.reward,
                advantage=path.advantage,
                length=int(completion.outputs["lengths"][completion.row]),
                truncated=bool(completion.outputs["truncated"][completion.row]),
            )
            for number, (completion, path) in enumerate(zip(group.completions, paths, strict=True))
        ],
    )


def _path(completion: Completion) -> Path:
    outputs, row = completion.outputs, completion.row
    mask = outputs["mask"][row].bool()
    length = int(mask.sum())
    if not bool(mask[:length].all()):
        raise ValueError(
            "ProcessTreeMonitor: mask of training_step's output must be a run from the left in "
            f"every row, but that of the completion to {outputs['prompts'][row]!r} has gaps; "
            "a process tree is made of whole prefixes. Set max_trees=0 to log its statistics alone"
        )
    texts = list(outputs["token_texts"][row])
    if len(texts) < length:
        raise ValueError(
            "ProcessTreeMonitor: token_texts of training_step's output must have a text for each "
            f"of a completion's {length} tokens, got {len(texts)}"
        )
    return Path(
        ids=outputs["completion_ids"][row, :length].tolist(),
        texts=texts[:length],
        set_sizes=outputs["set_sizes"][row, :length].tolist(),
        reward=completion.reward,
        advantage=float(outputs["advantages"][row]),
    )


def _grow(
    nodes: list[Node],
    paths: Sequence[Path],
    members: Sequence[int],
    position: int,
    parent: int | None,
) -> None:
    """Append the steps of completions that agree before ``position``, depth first.

    It calls itself once per process step on a path, of which there are at most G.
    """
    branches: dict[int, list[int]] = {}
    for member in members:
        if position < len(paths[member].ids):
            branches.setdefault(paths[member].ids[position], []).append(member)
    for branch in branches.values():
        end = _end_of_step([paths[member].ids for member in branch], position)
        node = Node(
            id=len(nodes),
            parent=parent,
            depth=position,
            tokens=paths[branch[0]].texts[position:end],
            set_size=len(branch),
            members=branch,
            mean_reward=_mean([paths[member].reward for member in branch]),
            advantage=statistics.fmean(paths[member].advantage for member in branch),
        )
        nodes.append(node)
        _grow(nodes, paths, branch, end, node["id"])


def _end_of_step(ids: Sequence[list[int]], start: int) -> int:
    """Return the first position after ``start`` at which a completion ends or leaves the others."""
    shortest = min(map(len, ids))
    first = ids[0]
    for position in range(start + 1, shortest):
        if any(other[position] != first[position] for other in ids[1:]):
            return position
    return shortest


def _check_set_sizes(group: Group, nodes: Sequence[Node], paths: Sequence[Path]) -> None:
    for node in nodes:
        for member in node["members"]:
            told = paths[member].set_sizes[node["depth"]]
            if told != node["set_size"]:
                raise ValueError(
                    f"ProcessTreeMonitor: set_sizes of training_step's output says that {told} "
                    f"completions share token {node['depth']} of completion {member} to "
                    f"{group.completions[member].outputs['prompts'][group.completions[member].row]!r}"
                    f", but of the {len(paths)} completions with group {group.number} "
                    f"{node['set_size']} do. Return group_size, the completions of a group, if a "
                    "group is spread over several optimizer steps"
                )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan
