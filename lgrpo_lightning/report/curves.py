"""Curves of a run: the columns of its metrics.csv over optimizer steps."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

_EVALUATIONS = ("eval/", "test/")
_DIGITS = 6  # significant; more than a curve shows


class CurveTable(TypedDict):
    """Columns with values at the same optimizer steps.

    ``x`` counts optimizer steps done: 0 is before training, 1 after the first. A value that is not
    finite is None: a gap.
    """

    x: list[int]
    y: dict[str, list[float | None]]


def read_curves(
    path: Path, evaluated: set[int], max_numbers: int, notes: list[str]
) -> list[CurveTable]:
    """Read a metrics.csv of Lightning's CSVLogger.

    Args:
        path: the file.
        evaluated: optimizer steps after which there was an evaluation, as far as known.
        max_numbers: values in all curves together; longer curves become means of so many rows.
        notes: gets a sentence about what is missing or left out.
    """
    if not path.is_file():
        notes.append("metrics.csv is missing: no curves. Lightning's CSVLogger writes it.")
        return []
    columns = _read_columns(path, evaluated, notes)
    return _thin(_tables(columns), max_numbers, notes)


def _read_columns(
    path: Path, evaluated: set[int], notes: list[str]
) -> dict[str, dict[int, float | None]]:
    """Read {column: {optimizer step: value}}; of two values for a step the later one counts."""
    columns: dict[str, dict[int, float | None]] = {}
    damaged = 0
    bad: set[str] = set()
    for row in _rows(path, notes):
        step = _number(row.get("step", ""))
        if step is None or None in row or None in row.values():
            damaged += 1
            continue
        names = [name for name, cell in row.items() if cell and name not in ("step", "epoch")]
        x = _steps_done(int(step), bool(row.get("epoch")), names, evaluated)
        for name in names:
            value = _number(row[name])
            columns.setdefault(name, {})[x] = value
            # Callbacks log NaN for a step that has nothing to measure, which is nothing bad.
            if value is None and row[name].lower() != "nan":
                bad.add(name)
    if damaged:
        notes.append(f"metrics.csv: {damaged} damaged row(s) left out.")
    if bad:
        notes.append(f"metrics.csv: values that are no numbers in {', '.join(sorted(bad))}.")
    return columns


def _rows(path: Path, notes: list[str]) -> Iterable[dict[str, str]]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        notes.append("metrics.csv: the last row is half written and left out.")
    if not lines:
        notes.append("metrics.csv is empty: no curves.")
        return []
    rows: csv.DictReader[str] = csv.DictReader(line.replace("\0", "") for line in lines)
    if "step" not in (rows.fieldnames or []):
        notes.append("metrics.csv has no column step: no curves.")
        return []
    return rows


def _steps_done(step: int, in_epoch: bool, names: list[str], evaluated: set[int]) -> int:
    """Optimizer steps done, from the step that Lightning writes.

    In training Lightning numbers what it logs by the step that is being done, from 0; in the
    evaluation before training by the steps done. An evaluation in the middle of an accumulation
    has no step being done, and that of a checkpoint does not know its step; the names of their
    files do.
    """
    if not in_epoch:
        return step
    if any(name.startswith(_EVALUATIONS) for name in names):
        if len(evaluated) == 1:
            return next(iter(evaluated))
        if step in evaluated and step + 1 not in evaluated:
            return step
    return step + 1


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _tables(columns: dict[str, dict[int, float | None]]) -> list[CurveTable]:
    """Put columns with the same steps together, so that the page holds these once."""
    tables: dict[tuple[int, ...], CurveTable] = {}
    for name, points in sorted(columns.items()):
        x = tuple(sorted(points))
        table = tables.setdefault(x, CurveTable(x=list(x), y={}))
        table["y"][name] = [points[step] for step in x]
    return list(tables.values())


def _thin(tables: list[CurveTable], max_numbers: int, notes: list[str]) -> list[CurveTable]:
    """Shorten the longest curves, so that all of them hold at most so many values."""
    max_points = max(1, max_numbers // max(1, sum(len(table["y"]) for table in tables)))
    longest = max((len(table["x"]) for table in tables), default=0)
    if longest > max_points:
        size = math.ceil(longest / max_points)
        notes.append(f"Long curves are drawn through means of up to {size} neighbouring points.")
    return [_means(table, math.ceil(len(table["x"]) / max_points)) for table in tables]


def _means(table: CurveTable, size: int) -> CurveTable:
    """Replace every ``size`` rows by their mean, at the last of their steps."""
    if size == 1:
        return table
    starts = range(0, len(table["x"]), size)
    return CurveTable(
        x=[table["x"][start : start + size][-1] for start in starts],
        y={
            name: [_mean(values[start : start + size]) for start in starts]
            for name, values in table["y"].items()
        },
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(f"{math.fsum(known) / len(known):.{_DIGITS}g}") if known else None
