"""One training run of a study: ``lgrpo fit`` in this process, and what it logged."""

import csv
import json
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lgrpo_lightning.study.results import Record

CommandLine = Callable[[list[str]], None]
Options = dict[str, Any]


@dataclass(frozen=True)
class TrainingRun:
    """A run of ``lgrpo fit`` and which of its figures are kept.

    Attributes:
        configs: config files of ``lgrpo fit``, later ones over earlier ones.
        options: values by dotted option, which override the configs'.
        columns: names of logged figures, such as ``train/reward``.
    """

    configs: Sequence[str]
    options: Options
    columns: Sequence[str]

    def arguments(self) -> list[str]:
        """The command line, without where the run is kept."""
        values = [f"--{name}={_argument(value)}" for name, value in self.options.items()]
        return ["fit", *(part for path in self.configs for part in ("-c", path)), *values]

    def contents(self) -> list[Any]:
        """What the config files say, without their comments.

        Raises:
            ValueError: if one does not exist.
        """
        for path in self.configs:
            if not Path(path).is_file():
                raise ValueError(f"config {path!r} is no file (looked in {Path.cwd()})")
        return [yaml.safe_load(Path(path).read_text(encoding="utf-8")) for path in self.configs]


def train(lgrpo: CommandLine, run: TrainingRun, folder: Path, name: str) -> Record:
    """Train, and read what was logged.

    Args:
        lgrpo: runs the command line.
        run: what to train.
        folder: of all runs of the study.
        name: of this run.

    Returns:
        ``curves``: {figure: [[step, value], …]} with steps of the optimizer, 0 for what was
        evaluated before training; ``seconds`` by the clock and ``cpu_seconds`` of this process and
        its reward workers.

    Raises:
        RuntimeError: if the run fails.
        ValueError: if it did not log a figure.
    """
    wall, cpu = time.monotonic(), _cpu_seconds()
    try:
        lgrpo([*run.arguments(), "--runs", str(folder), "--name", name])
    except SystemExit as error:
        raise RuntimeError(f"{name} failed: lgrpo {' '.join(run.arguments())}") from error
    seconds, cpu_seconds = time.monotonic() - wall, _cpu_seconds() - cpu
    # A run that was interrupted has left an older folder.
    metrics = max((folder / name).glob("*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    return {
        "curves": read_curves(metrics, run.columns),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
    }


def read_curves(path: Path, columns: Sequence[str]) -> dict[str, list[list[float]]]:
    """Curves from the file of Lightning's CSVLogger.

    Lightning logs an optimizer step and the evaluation after it under the steps made before. An
    evaluation before training has step 0 as well; it comes first.

    Raises:
        ValueError: if a figure was never logged.
    """
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    curves = {}
    for column in columns:
        logged = [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]
        if not logged:
            known = sorted({name for row in rows for name in row})
            raise ValueError(f"{path} has no figure {column!r}; it has {known}")
        before_training = len(logged) > 1 and logged[0][0] == 0 and column.startswith("eval/")
        curves[column] = [
            [step + 1 - (before_training and index == 0), round(value, 5)]
            for index, (step, value) in enumerate(logged)
        ]
    return curves


def _argument(value: Any) -> str:  # noqa: ANN401 - whatever an option takes
    return value if isinstance(value, str) else json.dumps(value)


def _cpu_seconds() -> float:
    """Of this process and of those of its children that have ended."""
    times = os.times()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return times.user + times.system + children.ru_utime + children.ru_stime
