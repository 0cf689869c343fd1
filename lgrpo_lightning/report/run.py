"""One run's folder, read for the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lgrpo_lightning.report.budget import Budget
from lgrpo_lightning.report.curves import CurveTable, read_curves
from lgrpo_lightning.report.evaluations import evaluation_files, read_evaluations
from lgrpo_lightning.report.groups import Group
from lgrpo_lightning.report.settings import Settings, read_settings
from lgrpo_lightning.report.training import read_training
from lgrpo_lightning.report.trees import Tree, read_trees

_CONTENTS = ("config.yaml", "metrics.csv", "evaluations*", "completions*", "trees*")


@dataclass(frozen=True)
class Run:
    """What the page shows of a run.

    Args:
        name: that tells it from the other runs of the page.
        settings: of its config.yaml.
        curves: columns of its metrics.csv over optimizer steps.
        groups: of completions, from training and evaluations.
        trees: process trees.
        notes: sentences about what is missing or left out.
    """

    name: str
    settings: Settings
    curves: list[CurveTable]
    groups: list[Group]
    trees: list[Tree]
    notes: list[str]


def check_folders(folders: Sequence[Path]) -> None:
    """Refuse folders that are no runs.

    Raises:
        ValueError: naming the folder that does not exist, holds no run, or is given twice.
    """
    if not folders:
        raise ValueError("give the folder of at least one run")
    seen: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(
                f"{folder} is not a folder; give the folder of a run, runs/<name>/<date>"
            )
        if not any(any(folder.glob(pattern)) for pattern in _CONTENTS):
            raise ValueError(
                f"{folder} holds no run: none of config.yaml, metrics.csv, evaluations/, "
                "completions/ and trees/ is in it; give that of a run, runs/<name>/<date>"
            )
        if folder.resolve() in seen:
            raise ValueError(f"{folder} is given twice")
        seen.add(folder.resolve())


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read runs, each with an equal share of the page."""
    budget = Budget.of_one_run(len(folders))
    return [
        _read_run(folder, name, budget)
        for folder, name in zip(folders, run_names(folders), strict=True)
    ]


def run_names(folders: Sequence[Path]) -> list[str]:
    """Return the last parts of the folders' paths: two, or more where these are equal."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(2, max(len(part) for part in parts)):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder.resolve()) for folder in folders]


def _read_run(folder: Path, name: str, budget: Budget) -> Run:
    notes: list[str] = []
    files = evaluation_files(folder, notes)
    evaluated = {step for _, step in files}
    return Run(
        name=name,
        settings=read_settings(folder / "config.yaml", notes),
        curves=read_curves(folder / "metrics.csv", evaluated, budget.curve_numbers, notes),
        groups=[
            *read_evaluations(files, budget.evaluation_bytes, notes),
            *read_training(folder, budget.completion_bytes, notes),
        ],
        trees=read_trees(folder, budget.tree_bytes, notes),
        notes=notes,
    )
