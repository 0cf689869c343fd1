"""Table and curves of the binary-tree study."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

from lgrpo_lightning.study.drawing import COLOURS, band, new_figure, save, tidy
from lgrpo_lightning.study.intervals import Estimate, mean_estimate
from lgrpo_lightning.study.results import Record
from lgrpo_lightning.study.tables import markdown_table

TARGET_SHARE = "train/rewards/exact_match_reward"
_SMOOTH = 10  # steps averaged in the picture; a single step has 16 samples
_METHODS = ("GRPO", "λ-GRPO")
_FOUND, _LOST = 0.9, 0.5  # shares from which a run has found the target, below which it has not

# n, r_neg: GRPO, λ-GRPO; mean over five seeds (arXiv 2509.21154)
_PAPER = {
    (1, -0.5): (0.3995, 0.5663),
    (1, -1.0): (0.0000, 0.7535),
    (1, -1.5): (0.2000, 0.4463),
    (2, -0.5): (0.1980, 0.4292),
    (2, -1.0): (0.0488, 0.3612),
    (2, -1.5): (0.0000, 0.3820),
}

Cell = tuple[int, float]
Measure = Callable[[Cell, str], list[float]]


@dataclass(frozen=True)
class TreeRuns:
    """The runs of the study.

    Attributes:
        curves: (n, r_neg, method) → for each seed the share of the target at each step.
        last_steps: steps over which the final share is taken.
        cpu_seconds: of all runs together.
    """

    curves: dict[tuple[int, float, str], list[list[float]]]
    last_steps: int
    cpu_seconds: float

    @cached_property
    def cells(self) -> list[Cell]:
        """(n, r_neg), in the order of the table."""
        return list(dict.fromkeys((n, r) for n, r, _ in self.curves))

    def finals(self, cell: Cell, method: str) -> list[float]:
        """The final share of each seed."""
        return [fmean(curve[-self.last_steps :]) for curve in self.curves[(*cell, method)]]

    def averages(self, cell: Cell, method: str) -> list[float]:
        """The share over all steps of each seed: the larger, the sooner the target comes."""
        return [fmean(curve) for curve in self.curves[(*cell, method)]]

    def share(self, cell: Cell, method: str) -> Estimate:
        """The final share, mean over seeds."""
        return mean_estimate(self.finals(cell, method)).within(0, 1)

    def ended_well(self, cell: Cell, method: str) -> int:
        """How many seeds sample the target more often than not in the end."""
        return sum(share > _LOST for share in self.finals(cell, method))

    def lost(self, method: str) -> int:
        """How many runs, over all cells, found the target and lost it again."""
        return sum(
            max(smoothed(curve)) >= _FOUND and smoothed(curve)[-1] < _LOST
            for cell in self.cells
            for curve in self.curves[(*cell, method)]
        )

    def differences(self, cell: Cell, measure: Measure | None = None) -> list[float]:
        """λ-GRPO minus GRPO, seed by seed; of the final share, or of another measure."""
        measure = measure or self.finals
        pairs = zip(measure(cell, "λ-GRPO"), measure(cell, "GRPO"), strict=True)
        return [ours - plain for ours, plain in pairs]

    def mean_difference(self, measure: Measure | None = None) -> Estimate:
        """λ-GRPO minus GRPO in the mean over the cells, with the interval over seeds.

        A seed has one policy for all cells, so its cells are averaged before seeds are compared.
        """
        per_seed = zip(*(self.differences(cell, measure) for cell in self.cells), strict=True)
        return mean_estimate([fmean(cells) for cells in per_seed])


def write_report(runs: TreeRuns, folder: Path) -> str:
    """Write ``table.md``, ``curves.png`` and ``summary.json``, and return the table."""
    text = "\n\n".join([_table(runs), _overall(runs)])
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    (folder / "summary.json").write_text(
        json.dumps(_summary(runs), ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    draw_curves(runs, folder / "curves.png")
    return text


def _table(runs: TreeRuns) -> str:
    rows = []
    for cell in runs.cells:
        paper = [f"{share:.4f}" for share in _PAPER.get(cell, ())] or ["–", "–"]
        shares = [runs.share(cell, method).text() for method in _METHODS]
        difference = mean_estimate(runs.differences(cell)).text(sign=True)
        well = ", ".join(str(runs.ended_well(cell, method)) for method in _METHODS)
        rows.append([str(cell[0]), f"{cell[1]:g}", *shares, difference, well, *paper])
    seeds = len(runs.finals(runs.cells[0], "GRPO"))
    head = ["n", "r_neg", *_METHODS, "difference, paired", f"above {_LOST:g}"]
    return (
        f"Share of samples equal to the target over the last {runs.last_steps} steps: mean of "
        f"{seeds} seeds with its 95 % interval, and how many seeds end above {_LOST:g}\n\n"
        + markdown_table([*head, *(f"paper: {method}" for method in _METHODS)], rows)
    )


def _overall(runs: TreeRuns) -> str:
    whole = sum(len(curves) for curves in runs.curves.values()) // len(_METHODS)
    lost = " and ".join(f"{runs.lost(method)} with {method}" for method in _METHODS)
    return (
        "λ-GRPO − GRPO in the mean over the cells: "
        f"{runs.mean_difference().text(3, sign=True)} over the last {runs.last_steps} steps, "
        f"{runs.mean_difference(runs.averages).text(3, sign=True)} over all steps. "
        f"Of {whole} runs each, {lost} found the target and lost it again. "
        f"{runs.cpu_seconds / 60:.1f} minutes of CPU time."
    )


def _summary(runs: TreeRuns) -> Record:
    cells = [
        {
            "shared": cell[0],
            "negative": cell[1],
            **{method: asdict(runs.share(cell, method)) for method in _METHODS},
            "difference": asdict(mean_estimate(runs.differences(cell))),
            "finals": {method: runs.finals(cell, method) for method in _METHODS},
        }
        for cell in runs.cells
    ]
    return {
        "cells": cells,
        "mean_difference": asdict(runs.mean_difference()),
        "mean_difference_all_steps": asdict(runs.mean_difference(runs.averages)),
        "lost": {method: runs.lost(method) for method in _METHODS},
        "cpu_seconds": runs.cpu_seconds,
    }


def draw_curves(runs: TreeRuns, path: Path) -> None:
    """The share of the target over optimizer steps, a panel for each cell."""
    rows = list(dict.fromkeys(n for n, _ in runs.cells))
    columns = list(dict.fromkeys(r for _, r in runs.cells))
    figure = new_figure(3.4 * len(columns), 2.6 * len(rows))
    panels = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey=True)
    for n, negative in runs.cells:
        axes = panels[rows.index(n)][columns.index(negative)]
        for method, line_colour in COLOURS.items():
            curves = [smoothed(curve) for curve in runs.curves[(n, negative, method)]]
            for curve in curves:
                axes.plot(curve, color=line_colour, linewidth=0.5, alpha=0.25)
            estimates = [mean_estimate(values).within(0, 1) for values in zip(*curves, strict=True)]
            band(axes, range(len(estimates)), estimates, method, line_colour, linewidth=2)
        axes.set_title(f"n = {n}, r_neg = {negative:g}", fontsize=10)
        axes.set_ylim(-0.02, 1.02)
        tidy(axes)
    for axes in panels[-1]:
        axes.set_xlabel("optimizer steps")
    for row in panels:
        row[0].set_ylabel("share of the target")
    panels[0][0].legend(frameon=False, fontsize=8, loc="upper left")
    save(figure, path)


def smoothed(curve: list[float]) -> list[float]:
    """Mean over the last ten steps, fewer at the beginning."""
    return [fmean(curve[max(0, end - _SMOOTH) : end]) for end in range(1, len(curve) + 1)]
