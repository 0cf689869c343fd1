"""Where the parts of a process tree's picture lie, without drawing anything.

x is measured in characters of a monospaced font, y in lanes from the top, one per completion.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from lgrpo_callbacks.tree_record import Leaf, Node, TreeRecord

GAP = 3.0  # characters between a step and the next, for the branch that leads there
_WIDTH = 150  # characters that the longest path may take
_SHORTEST = 16  # characters that every step may take, however many there are on a path
_NARROWEST = 4.0  # characters that a step takes at least, for the set size below it
# What would break a line or be invisible is shown as what editors show.
_VISIBLE = str.maketrans({"\n": "↵", "\t": "→", "\r": "␍", "\v": "↵", "\f": "↵", "\x00": "␀"})


@dataclass(frozen=True)
class PlacedNode:
    """A process step as a horizontal line with its text above it."""

    node: Node
    text: str
    left: float
    right: float
    y: float


@dataclass(frozen=True)
class PlacedLeaf:
    """A completion's lane, and where its last step ends; None if it is not in the tree."""

    leaf: Leaf
    y: float
    end: PlacedNode | None


@dataclass(frozen=True)
class Layout:
    """The placed parts of a tree, and the width of it all in characters."""

    nodes: list[PlacedNode]
    leaves: list[PlacedLeaf]
    width: float


def lay_out(record: TreeRecord) -> Layout:
    """Place the steps of a tree; texts are as long as the longest path allows."""
    nodes = record["nodes"]
    limit = _text_limit(nodes)
    longest = int(_longest_path(nodes, limit))
    parents = {node["parent"] for node in nodes}
    lanes = _lanes(record)
    placed: dict[int, PlacedNode] = {}
    for node in nodes:  # parents come first
        left = 0.0 if node["parent"] is None else placed[node["parent"]].right + GAP
        # A step with which completions end has all the room to its right.
        room = limit if node["id"] in parents else max(limit, longest - int(left))
        text = shorten_step(node["tokens"], room)
        y = sum(lanes[member] for member in node["members"]) / node["set_size"]
        width = max(text_width(text), _NARROWEST)
        placed[node["id"]] = PlacedNode(node, text, left, left + width, y)
    leaves = [
        PlacedLeaf(
            leaf, lanes[leaf["completion"]], None if leaf["node"] is None else placed[leaf["node"]]
        )
        for leaf in record["leaves"]
    ]
    width = max((node.right for node in placed.values()), default=0.0)
    return Layout(list(placed.values()), leaves, width)


def shorten_step(tokens: Sequence[str], limit: int) -> str:
    """Return the text of a step, with tokens in its middle left out if it is too long.

    Beginning and end stay, as a step often ends with an answer. What is left out is counted:
    ``So we add … +37 … = 42``.
    """
    pieces = [token.translate(_VISIBLE) for token in tokens]
    whole = _shown(pieces)
    if text_width(whole) <= limit:
        return whole
    room = limit - len(f" … +{len(pieces)} … ")
    pieces = [_clipped(piece, room) for piece in [pieces[0].lstrip(), *pieces[1:]]]
    if len(pieces) == 1:
        return _shown(pieces)
    tail = _fitting(pieces[:0:-1], room // 3)
    used = sum(map(text_width, pieces[len(pieces) - tail :]))
    head = _fitting(pieces[: len(pieces) - tail - 1], room - used)
    if not head:  # the first token comes first
        head, tail = 1, 0
    left_out = len(pieces) - head - tail
    end = f" … {_shown(pieces[-tail:])}" if tail else ""
    return f"{_shown(pieces[:head])} … +{left_out}{end}"


def text_width(text: str) -> int:
    """Return how many columns a text takes in a monospaced font."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def _shown(pieces: Sequence[str]) -> str:
    text = "".join(pieces)
    return text.strip() or "␣" * len(text)


def _clipped(piece: str, width: int) -> str:
    """Return a token, or its beginning if it is too wide: a run of dashes may be a single one."""
    while text_width(piece) > width:
        piece = piece[:-2] + "…"
    return piece


def _fitting(pieces: Sequence[str], room: int) -> int:
    """Return how many of the first pieces fit."""
    used = 0
    for count, piece in enumerate(pieces):
        used += text_width(piece)
        if used > room:
            return count
    return len(pieces)


def _lanes(record: TreeRecord) -> dict[int, float]:
    """Return each completion's lane: in the order of the leaves, those without a step last."""
    # A node's members are met in depth-first order when the last node that holds them is.
    order: dict[int, int] = {leaf["completion"]: len(record["nodes"]) for leaf in record["leaves"]}
    for leaf in record["leaves"]:
        if leaf["node"] is not None:
            order[leaf["completion"]] = leaf["node"]
    ranked = sorted(order, key=lambda completion: (order[completion], completion))
    return {completion: float(lane) for lane, completion in enumerate(ranked)}


def _text_limit(nodes: Sequence[Node]) -> int:
    """Return the most characters that a step's text may take for the longest path to fit."""
    low, high = _SHORTEST, _WIDTH
    while low < high:
        middle = (low + high + 1) // 2
        if _longest_path(nodes, middle) <= _WIDTH:
            low = middle
        else:
            high = middle - 1
    return low


def _longest_path(nodes: Sequence[Node], limit: int) -> float:
    right: dict[int | None, float] = {None: -GAP}
    for node in nodes:
        width = max(text_width(shorten_step(node["tokens"], limit)), _NARROWEST)
        right[node["id"]] = right[node["parent"]] + GAP + width
    return max(right.values())
