"""Tables of methods compared on one task."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

from lgrpo_lightning.study.intervals import Estimate, mean_estimate
from lgrpo_lightning.study.method_picture import draw_curves
from lgrpo_lightning.study.results import Record
from lgrpo_lightning.study.tables import markdown_table
from lgrpo_lightning.study.tree_cost import RolloutShape

ACCURACY = "eval/pass@1"
TREES = {
    "train/path_depth": "path depth, process steps",
    "train/intermediate_proportion": "intermediate proportion",
    "train/unique_tokens": "nodes per token",
}
_LENGTH, _SPEED = "train/length", "train/tokens_per_second"
FIGURES = (ACCURACY, *TREES, _LENGTH, _SPEED)

Curve = list[list[float]]


@dataclass(frozen=True)
class MethodRuns:
    """The runs of the study.

    Attributes:
        records: method → the record of each seed.
        levels: accuracies to be reached.
        rollout: the size of a rollout.
    """

    records: dict[str, list[Record]]
    levels: Sequence[float]
    rollout: RolloutShape

    def curves(self, method: str, figure: str) -> list[Curve]:
        """[step, value] pairs of each seed."""
        return [record["curves"][figure] for record in self.records[method]]

    def band(self, method: str, figure: str) -> tuple[list[float], list[Estimate]]:
        """Steps, and at each the mean over seeds."""
        curves = self.curves(method, figure)
        steps = [step for step, _ in curves[0]]
        highest = 1.0 if figure == ACCURACY else math.inf
        return steps, [
            mean_estimate([curve[place][1] for curve in curves]).within(0, highest)
            for place in range(len(steps))
        ]

    def measures(self, method: str) -> dict[str, list[float]]:
        """What the table shows, a value for each seed."""
        curves = self.curves(method, ACCURACY)
        values = [[value for _, value in curve] for curve in curves]
        return {
            **{
                f"steps to {level:g}": [steps_to(curve, level) for curve in curves]
                for level in self.levels
            },
            "mean over all steps": [fmean(accuracies) for accuracies in values],
            "peak": [max(accuracies) for accuracies in values],
            "final": [accuracies[-1] for accuracies in values],
        }

    def tree_share(self) -> tuple[float, float]:
        """Medians over all runs: seconds to build a rollout's trees, and seconds of a step."""
        completions = self.rollout.prompts * self.rollout.group_size
        trees, steps = [], []
        for record in (record for records in self.records.values() for record in records):
            trees.append(record["tree_seconds"])
            pairs = zip(record["curves"][_LENGTH], record["curves"][_SPEED], strict=True)
            steps.append(median(completions * length / speed for (_, length), (_, speed) in pairs))
        return median(trees), median(steps)


def steps_to(curve: Curve, level: float) -> float:
    """The step at which a level is first reached, between two evaluations by a straight line.

    A curve that never reaches it counts as reaching it at the end, which is too soon.
    """
    before = curve[0]
    for step, value in curve:
        if value >= level:
            rise = value - before[1]
            share = 1.0 if rise <= 0 else (level - before[1]) / rise
            return before[0] + share * (step - before[0])
        before = [step, value]
    return curve[-1][0]


def write_report(runs: MethodRuns, folder: Path) -> str:
    """Write ``table.md``, ``curves.png`` and ``summary.json``, and return the tables."""
    methods = list(runs.records)
    measures = {method: runs.measures(method) for method in methods}
    first, *others = methods
    names = list(measures[first])
    rows, differences = [], []
    for name in names:
        in_steps = name.startswith("steps")
        digits = 1 if in_steps else 3
        highest = math.inf if in_steps else 1.0
        estimates = [mean_estimate(measures[m][name]).within(0, highest) for m in methods]
        rows.append([name, *(estimate.text(digits) for estimate in estimates)])
        differences.append(
            [
                name,
                *(
                    _difference(measures[m][name], measures[first][name]).text(digits, sign=True)
                    for m in others
                ),
            ]
        )
    trees, step = runs.tree_share()
    seeds = len(runs.records[first])
    text = "\n\n".join(
        [
            f"Held-out pass@1, mean of {seeds} seeds with its 95 % interval",
            markdown_table(["", *methods], rows),
            f"Paired differences to {first}, seed by seed",
            markdown_table(["", *others], differences),
            f"Process sets of a rollout and their weights: {1e3 * trees:.1f} ms of a step of "
            f"{1e3 * step:.0f} ms, {100 * trees / step:.2f} % (medians).",
        ]
    )
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    summary = {
        "measures": measures,
        "accuracy": {m: [asdict(e) for e in runs.band(m, ACCURACY)[1]] for m in methods},
        "steps": runs.band(first, ACCURACY)[0],
        "tree_seconds": trees,
        "step_seconds": step,
    }
    (folder / "summary.json").write_text(
        json.dumps(summary, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    panels = {ACCURACY: "held-out pass@1, greedy", **TREES}
    bands = {
        title: {method: runs.band(method, figure) for method in methods}
        for figure, title in panels.items()
    }
    draw_curves(bands, folder / "curves.png")
    return text


def _difference(ours: list[float], theirs: list[float]) -> Estimate:
    return mean_estimate([a - b for a, b in zip(ours, theirs, strict=True)])
