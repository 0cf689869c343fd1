"""Local data files, read without a cache: an edited file is seen by the next run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def kind_of(file: Path) -> str:
    """Return the kind of a data file, one of ``SUFFIXES`` if it can be read."""
    return file.suffix.lower()


def read_files(files: Sequence[Path]) -> list[Row] | Dataset:
    """Read data files of one kind as one table, in the order given.

    Values stay as the file has them: a number of JSON stays a number, a field of CSV is text.

    Args:
        files: JSON Lines (``.jsonl``, ``.json``), JSON (``.json``, one list of objects), CSV with a
            header (``.csv``) or Parquet (``.parquet``) files.

    Returns:
        The rows; Parquet as a :class:`datasets.Dataset`, whose rows are made when they are read.

    Raises:
        ValueError: If a file is of no known kind, of another kind than the first, or broken (file
            and line are named).
    """
    for file in files:
        if kind_of(file) not in SUFFIXES:
            raise ValueError(
                f"{file}: files of kind {kind_of(file)!r} are not read; use one of {SUFFIXES}"
            )
    parquet = [file for file in files if kind_of(file) == ".parquet"]
    if parquet and len(parquet) < len(files):
        other = next(file for file in files if kind_of(file) != ".parquet")
        raise ValueError(f"{parquet[0]} and {other}: Parquet does not mix with other kinds")
    if parquet:
        return _read_parquet(parquet)
    rows: list[Row] = []
    for file in files:
        rows.extend(_read_csv(file) if kind_of(file) == ".csv" else _read_json(file))
    return rows


def _read_parquet(files: Sequence[Path]) -> Dataset:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]
    from datasets import Dataset

    tables = []
    for file in files:
        try:
            tables.append(pa.parquet.read_table(file))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file} is not a Parquet file: {error}") from error
    try:
        return Dataset(pa.concat_tables(tables, promote_options="default"))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        names = ", ".join(str(file) for file in files)
        raise ValueError(f"the columns of {names} have different types: {error}") from error


def _read_text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file}, line {line}: not UTF-8 (byte {error.object[error.start]:#04x}); "
            "save the file as UTF-8"
        ) from error


def _read_json(file: Path) -> list[Row]:
    text = _read_text(file)
    if kind_of(file) == ".json" and text.lstrip().startswith("["):
        return _read_json_list(file, text)
    return list(_json_lines(file, text))


def _read_json_list(file: Path, text: str) -> list[Row]:
    try:
        rows: list[Row] = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {error.lineno}: broken JSON: {error.msg}") from error
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(
                f"{file}, element {index}: a {type(row).__name__} where an object is needed"
            )
    return rows


def _json_lines(file: Path, text: str) -> Iterator[Row]:
    # Not splitlines(): it also splits at characters that may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{file}, line {number}: broken JSON: {error.msg} (column {error.colno}); "
                "each line must be one JSON object"
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{file}, line {number}: a {type(row).__name__} where an object is needed"
            )
        yield row


def _read_csv(file: Path) -> list[Row]:
    reader = csv.DictReader(io.StringIO(_read_text(file), newline=""), strict=True)
    rows: list[Row] = []
    try:
        names = reader.fieldnames or []
        if len(set(names)) < len(names):
            raise ValueError(f"{file}: the header names a column twice: {', '.join(names)}")
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(
                    f"{file}, line {reader.line_num}: more or fewer fields than the header's "
                    f"{len(names)}"
                )
            rows.append(row)
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.reader.line_num}: broken CSV: {error}") from error
    return rows
