"""JSON Lines files that survive a kill: one record a line, whole lines only, never overwritten."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    r"""Return the records of a JSON Lines file.

    A last line without its line end was being written when the process was killed; it is left out.

    Args:
        path: the file.

    Raises:
        ValueError: naming file and line, if a complete line is not valid JSON.

    Example::

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rank-0.jsonl"
        >>> _ = path.write_text('{"step": 1}\n{"step": 2}\n{"st')
        >>> read_jsonl(path)
        [{'step': 1}, {'step': 2}]
    """
    return [record for record, _ in _complete_records(Path(path))]


def append_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records, whole lines in one write, and wait until they are on the disk."""
    with path.open("ab") as file:
        file.write(encode_jsonl(records))
        file.flush()
        os.fsync(file.fileno())


def write_new_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write a file that appears complete or not at all, and never replaces another.

    Args:
        path: the wanted place; where it is taken, ``-2``, ``-3``, … is added to the name.
        records: what to write.

    Returns:
        The place that was free.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = encode_jsonl(records)
    for place in _numbered(path):
        unfinished = place.with_name(place.name + ".tmp")
        try:
            # Whoever creates the unfinished file owns the name; "x" refuses a second owner.
            with unfinished.open("xb") as file:
                taken = place.exists()
                if not taken:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
        except FileExistsError:
            continue
        if taken:
            unfinished.unlink()
            continue
        os.replace(unfinished, place)
        return place
    raise AssertionError("the numbers never end")


def make_new_folder(path: Path) -> Path:
    """Make and return a folder that was not there before; ``-2``, ``-3``, … where it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for place in _numbered(path):
        try:
            place.mkdir()
        except FileExistsError:
            continue
        return place
    raise AssertionError("the numbers never end")


def cut_after_step(path: Path, step: int) -> None:
    """Cut a history, in order of its key ``step``, after the records of that optimizer step."""
    os.truncate(path, _end_of_step(path, step))


def copy_until_step(path: Path, target: Path, step: int) -> None:
    """Copy a history, in order of its key ``step``, up to and with that optimizer step."""
    end = _end_of_step(path, step)
    with path.open("rb") as file:
        target.write_bytes(file.read(end))


def encode_jsonl(records: Iterable[Mapping[str, Any]]) -> bytes:
    """Return records as UTF-8 lines of strict JSON; NaN and infinity become null."""
    lines = (
        json.dumps(strict_json(record), ensure_ascii=False, allow_nan=False) for record in records
    )
    # A half character that a tokenizer produced has no UTF-8 form, but it has a JSON escape.
    return "".join(f"{line}\n" for line in lines).encode("utf-8", errors="backslashreplace")


def strict_json(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a value of which strict JSON can be made: NaN and infinity are None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(item) for item in value]
    return value


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1


def _end_of_step(path: Path, step: int) -> int:
    """Return the byte at which the first record of a later step begins."""
    end = 0
    for record, line_end in _complete_records(path):
        if record["step"] > step:
            break
        end = line_end
    return end


def _complete_records(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each record and the byte after its line."""
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is not valid JSON: {error}") from error
            yield record, end
