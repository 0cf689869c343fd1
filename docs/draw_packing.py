"""Draw docs/packing.png: a group, its tree, its packed row and the mask of that row.

python docs/draw_packing.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from lgrpo_lightning.tree.packing import PackedTrees, pack_trees

WORDS = ["", "2", "+", "3", "=", "so", "it", "is", "five", "5", "6", "."]
PROMPT = [1, 2, 3, 4]
GROUP = [[5, 6, 7, 8, 11], [5, 6, 7, 9, 11], [5, 10, 11], [9, 11]]
COLOURS = ["#9aa5b1", "#2f6f9f", "#6fa8cf", "#d98032", "#5b9a68", "#8c6bb1", "#a8484f"]


def packed() -> tuple[PackedTrees, list[int]]:
    """The group's packing, and for each token of its row which run of the tree it lies in."""
    length = max(map(len, GROUP))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in GROUP])
    mask = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in GROUP])
    prompt = torch.tensor([PROMPT])
    groups = torch.zeros(len(GROUP), dtype=torch.long)
    trees = pack_trees(prompt, torch.ones_like(prompt).bool(), ids, mask, groups)
    ends = trees.ends[0].tolist()
    runs, run = [], 0
    for index, end in enumerate(ends):
        if index and (end != ends[index - 1] or index == len(PROMPT)):
            run += 1
        runs.append(run)
    return trees, runs


def box(axes: Axes, x: float, y: float, token: int, run: int) -> None:
    """One token."""
    colour = COLOURS[run % len(COLOURS)]
    axes.add_patch(Rectangle((x - 0.45, y - 0.32), 0.9, 0.64, facecolor=colour, edgecolor="none"))
    axes.text(x, y, WORDS[token], ha="center", va="center", color="white", fontsize=9)


def draw_rows(axes: Axes, trees: PackedTrees, runs: list[int]) -> None:
    """The padded batch: the prompt once per completion, shared tokens once per completion."""
    for row, words in enumerate(GROUP):
        for x, token in enumerate(PROMPT):
            box(axes, x, -row, token, runs[0])
        for step, token in enumerate(words):
            node = int(trees.nodes[row, step]) + len(PROMPT)
            box(axes, len(PROMPT) + step, -row, token, runs[node])
    count = len(GROUP) * (len(PROMPT) + max(map(len, GROUP)))
    axes.set_title(f"padded: {count} tokens", loc="left", fontsize=10, pad=8)


def draw_tree(axes: Axes, trees: PackedTrees, runs: list[int]) -> None:
    """The prefix tree, a level for each run."""
    level = [0.0] * trees.ids.shape[1]
    for row, words in enumerate(GROUP):
        for step in range(len(words)):
            node = int(trees.nodes[row, step]) + len(PROMPT)
            level[node] = level[node] or -float(row) - 0.001
    positions, ids = trees.positions[0].tolist(), trees.ids[0].tolist()
    parents = [*range(-1, len(PROMPT) - 1), *trees.parents.tolist()]
    for index, parent in enumerate(parents):
        if parent >= 0:
            axes.plot(
                [positions[parent], positions[index]],
                [level[parent], level[index]],
                color="#444444",
                linewidth=1,
                zorder=0,
            )
    for index, token in enumerate(ids):
        box(axes, positions[index], level[index], token, runs[index])
    axes.set_title(f"the tree: {len(ids)} tokens, position = depth", loc="left", fontsize=10, pad=8)


def draw_mask(axes: Axes, trees: PackedTrees, runs: list[int]) -> None:
    """The packed row along both sides, and who sees whom between."""
    ids, ends = trees.ids[0].tolist(), trees.ends[0].tolist()
    for query, token in enumerate(ids):
        box(axes, query, 1.0, token, runs[query])
        box(axes, -1.4, -query, token, runs[query])
        for key in range(query + 1):
            if query < ends[key]:
                shape = Rectangle((key - 0.45, -query - 0.45), 0.9, 0.9)
                shape.set_facecolor(COLOURS[runs[key] % len(COLOURS)])
                axes.add_patch(shape)
    axes.set_title(
        "the packed row and its mask: key ≤ query < end(key)", loc="left", fontsize=10, pad=8
    )


def main() -> None:
    """Draw the three panels."""
    trees, runs = packed()
    figure = plt.figure(figsize=(11, 5.6))
    grid = figure.add_gridspec(2, 2, width_ratios=[1, 1.15])
    panels = [
        (figure.add_subplot(grid[0, 0]), draw_rows),
        (figure.add_subplot(grid[1, 0]), draw_tree),
        (figure.add_subplot(grid[:, 1]), draw_mask),
    ]
    for axes, draw in panels:
        draw(axes, trees, runs)
        axes.autoscale_view()
        axes.margins(0.03)
        axes.set_aspect("equal")
        axes.axis("off")
    figure.tight_layout()
    figure.savefig(
        Path(__file__).with_name("packing.png"), dpi=110, bbox_inches="tight", pad_inches=0.1
    )


if __name__ == "__main__":
    main()
