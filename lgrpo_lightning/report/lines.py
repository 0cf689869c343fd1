"""JSON Lines files of a run, read with patience: what is damaged is left out and said.

Unlike the reader of the callbacks, which must not lose a record unnoticed, a report shows what is
there. Files may be larger than memory, so lines are found first and read again when chosen.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgrpo_lightning.report.json_text import json_size


@dataclass(frozen=True)
class Line:
    """A place in a file.

    Args:
        path: the file.
        number: of the line, from 1.
        offset: its first byte.
        size: its bytes.
        page_size: bytes that it may take in the page.
    """

    path: Path
    number: int
    offset: int
    size: int
    page_size: int

    def read(self) -> dict[str, Any]:
        """Return the record, which :func:`scan` found to be valid."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            record: dict[str, Any] = json.loads(file.read(self.size))
        return record


def scan(path: Path, name: str, notes: list[str]) -> Iterator[tuple[Line, dict[str, Any]]]:
    """Yield every complete and valid line of a file, with its record.

    Args:
        path: the file.
        name: what the notes call it.
        notes: gets a sentence about lines that are left out.
    """
    damaged: list[int] = []
    offset = 0
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.endswith(b"\n"):
                notes.append(f"{name}: the last line is half written and left out.")
                break
            line = Line(path, number, offset, len(text), json_size(text))
            offset += len(text)
            try:
                record = json.loads(text)
            except ValueError:
                damaged.append(number)
                continue
            if isinstance(record, dict):
                yield line, record
            else:
                damaged.append(number)
    if damaged:
        notes.append(f"{name}: {count(damaged)} not valid and left out.")


def count(numbers: list[int]) -> str:
    """Return "line 3 is", or "4 lines (the first: line 3) are"."""
    if len(numbers) == 1:
        return f"line {numbers[0]} is"
    return f"{len(numbers)} lines (the first: line {numbers[0]}) are"


def newest_folder(run: Path, name: str, notes: list[str]) -> Path | None:
    """Return the run's folder of that name; where there are name-2, name-3 …, the last of them."""
    folders = {1: run / name} if (run / name).is_dir() else {}
    for folder in run.glob(f"{name}-*"):
        number = folder.name.removeprefix(f"{name}-")
        if folder.is_dir() and number.isdecimal():
            folders[int(number)] = folder
    if not folders:
        return None
    newest = folders.pop(max(folders))
    if folders:
        others = ", ".join(f"{folders[number].name}/" for number in sorted(folders))
        notes.append(f"{newest.name}/ is shown, not {others} of earlier runs in this folder.")
    return newest
