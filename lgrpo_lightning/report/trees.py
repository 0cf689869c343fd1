"""Process trees of a run, from the files of ProcessTreeMonitor."""

from pathlib import Path
from typing import Any, TypedDict

from lgrpo_lightning.report.budget import choose_within
from lgrpo_lightning.report.fields import as_bool, as_int, as_list, as_number, as_text
from lgrpo_lightning.report.json_text import to_json
from lgrpo_lightning.report.lines import Line, count, newest_folder, scan

# Of a longer process step these many tokens at its beginning and at its end are shown.
_HEAD, _TAIL = 120, 40


class Node(TypedDict):
    """A process step: a run of tokens with one process set (``members``)."""

    parent: int | None
    tokens: list[str]
    omitted: int
    members: list[int]
    reward: float | None
    advantage: float


class Leaf(TypedDict):
    """A completion of the group; ``node`` is the step it ends in, None if it has no token."""

    completion: int
    node: int | None
    reward: float | None
    advantage: float
    length: int | None
    truncated: bool | None


class Tree(TypedDict):
    """A group's process tree. Nodes are in depth-first order; ``parent`` is a place in it.

    ``omitted`` tokens are left out of the middle of a step's ``tokens``, after the first ``head``.
    """

    step: int
    prompt: str
    mean: float | None
    std: float | None
    head: int
    nodes: list[Node]
    leaves: list[Leaf]


def read_trees(run: Path, max_bytes: int, notes: list[str]) -> list[Tree]:
    """Read the trees of a run, or so many, evenly over the run, as the page can hold.

    Args:
        run: the run's folder.
        max_bytes: that the trees may take.
        notes: gets a sentence about what is missing or left out.
    """
    folder = newest_folder(run, "trees", notes)
    paths = sorted(folder.glob("rank-*.jsonl")) if folder else []
    if not paths:
        notes.append(
            "trees/ is missing: no process trees. The callback ProcessTreeMonitor writes them."
        )
        return []
    found: list[tuple[int, Line, int]] = []  # step, place, size in the page
    for path in paths:
        name = f"{path.parent.name}/{path.name}"
        wrong: list[int] = []
        for line, record in scan(path, name, notes):
            try:
                tree = parse_tree(record)
            except ValueError:
                wrong.append(line.number)
            else:
                found.append((tree["step"], line, len(to_json(tree))))
        if wrong:
            notes.append(f"{name}: {count(wrong)} not a process tree and left out.")
    found.sort(key=lambda item: item[0])  # stable: trees of a step stay in the file's order
    chosen = choose_within([size for _, _, size in found], max_bytes)
    if len(chosen) < len(found):
        notes.append(
            f"Process trees: {len(chosen):,} of {len(found):,}, evenly over the run, to keep the "
            "page small."
        )
    return [parse_tree(found[place][1].read()) for place in chosen]


def parse_tree(record: dict[str, Any]) -> Tree:
    """Check a record and bring it into the page's form.

    Args:
        record: ``step``, ``prompt``, ``mean_reward``, ``std_reward``, ``nodes`` (depth-first, each
            with ``id``, ``parent``, ``tokens``, ``members``, ``mean_reward``, ``advantage``) and
            ``leaves`` (``completion``, ``node``, ``reward``, ``advantage``, ``length``,
            ``truncated``).

    Raises:
        ValueError: if it is no tree.
    """
    step = as_int(record.get("step"))
    if step is None:
        raise ValueError("a process tree needs its optimizer step")
    places: dict[int, int] = {}  # id → place
    nodes: list[Node] = []
    for place, node in enumerate(as_list(record.get("nodes"))):
        nodes.append(_node(node, nodes, places))
        places[_integer(node, "id")] = place
    leaves = [_leaf(leaf, nodes, places) for leaf in as_list(record.get("leaves"))]
    completions = {leaf["completion"] for leaf in leaves}
    if not leaves or any(not completions.issuperset(node["members"]) for node in nodes):
        raise ValueError("the members of a process tree's nodes must be among its leaves")
    return Tree(
        step=step,
        prompt=as_text(record.get("prompt")),
        mean=as_number(record.get("mean_reward")),
        std=as_number(record.get("std_reward")),
        head=_HEAD,
        nodes=nodes,
        leaves=leaves,
    )


def _node(record: object, nodes: list[Node], places: dict[int, int]) -> Node:
    """Check a node against those before it."""
    if not isinstance(record, dict):
        raise ValueError("a node must be a mapping")
    members = [as_int(member) for member in as_list(record.get("members"))]
    known = [member for member in members if member is not None]
    parent = _place(record.get("parent"), places)
    if not known or len(known) < len(members) or _integer(record, "id") in places:
        raise ValueError("a node must have members and an id of its own")
    if parent is not None and not set(known) <= set(nodes[parent]["members"]):
        raise ValueError("a node's members must be among its parent's")
    tokens = [as_text(token) for token in as_list(record.get("tokens"))]
    omitted = max(0, len(tokens) - _HEAD - _TAIL)
    return Node(
        parent=parent,
        tokens=tokens[:_HEAD] + tokens[-_TAIL:] if omitted else tokens,
        omitted=omitted,
        members=known,
        reward=as_number(record.get("mean_reward")),
        advantage=_advantage(record),
    )


def _leaf(record: object, nodes: list[Node], places: dict[int, int]) -> Leaf:
    if not isinstance(record, dict):
        raise ValueError("a leaf must be a mapping")
    completion = _integer(record, "completion")
    node = _place(record.get("node"), places)
    if node is not None and completion not in nodes[node]["members"]:
        raise ValueError("a leaf must be a member of the node it ends in")
    return Leaf(
        completion=completion,
        node=node,
        reward=as_number(record.get("reward")),
        advantage=_advantage(record),
        length=as_int(record.get("length")),
        truncated=as_bool(record.get("truncated")),
    )


def _integer(record: dict[str, Any], name: str) -> int:
    value = as_int(record.get(name))
    if value is None:
        raise ValueError(f"{name} must be a whole number")
    return value


def _place(identity: object, places: dict[int, int]) -> int | None:
    """The place of a node that came before."""
    if identity is None:
        return None
    known = as_int(identity)
    if known is None or known not in places:
        raise ValueError("a node must come before those that name it")
    return places[known]


def _advantage(record: dict[str, Any]) -> float:
    advantage = as_number(record.get("advantage"))
    if advantage is None:
        raise ValueError("an advantage must be a finite number")
    return advantage
