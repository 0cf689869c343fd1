"""``metrics.csv``, whole at any moment, also if the run is killed."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.csv_logs import _ExperimentWriter
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

Row = dict[str, Any]


class MetricsCSV(CSVLogger):
    """Lightning's CSV logger, without the moment at which its file is empty.

    A new column means that the file is written again; Lightning does so in place.

    Args:
        folder: the run's.

    Attributes:
        rows: how many were logged.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), name="", version="")
        self.rows = 0

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE

    @property
    @rank_zero_experiment
    def experiment(self) -> _ExperimentWriter:
        """What writes the file, made when it is first asked for."""
        if self._experiment is None:
            os.makedirs(self.root_dir, exist_ok=True)
            self._experiment = _WholeFileWriter(self.log_dir)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row."""
        super().log_metrics(dict(metrics), step)
        self.rows += 1


class _WholeFileWriter(ExperimentWriter):
    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        unfinished = path.with_name(f".{path.name}.unfinished")
        with path.open(newline="") as file, unfinished.open("w", newline="") as new:
            writer = csv.DictWriter(new, fieldnames)
            writer.writeheader()
            writer.writerows(csv.DictReader(file))
            new.flush()
            os.fsync(new.fileno())
        os.replace(unfinished, path)


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics file, without empty cells and without a last line cut short."""
    with path.open(newline="") as file:
        lines = [line for line in file if line.endswith("\n")]
    return [
        {name: _number(text) for name, text in row.items() if text} for row in csv.DictReader(lines)
    ]


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
