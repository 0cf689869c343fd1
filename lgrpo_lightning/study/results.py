"""Results of finished jobs, kept as JSON lines, so that a study can be interrupted."""

import json
import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

Record = dict[str, Any]


class ResultFile:
    """A file with a line ``{"key": …, "result": …}`` for every finished job.

    A job is known by its key, which holds all that its result depends on. Lines of other keys, from
    before a setting was changed, are kept and left alone.

    Args:
        path: the file, which need not exist yet.

    Raises:
        ValueError: if the file holds anything else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._results: dict[str, Record] = {}
        if path.exists():
            self._read()

    def get(self, key: Record) -> Record | None:
        """The result of a job, or None if it has not been finished."""
        return self._results.get(_text(key))

    def add(self, key: Record, result: Record) -> None:
        """Keep a result, on disk before this returns."""
        self._results[_text(key)] = result
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "result": result}, ensure_ascii=False) + "\n")

    def _read(self) -> None:
        text = self.path.read_text(encoding="utf-8")
        complete, _, rest = text.rpartition("\n")
        if rest:  # the process ended in the middle of a line
            log.warning("%s: dropping an unfinished last line", self.path)
            self.path.write_text(complete + "\n" if complete else "", encoding="utf-8")
        for number, line in enumerate(complete.splitlines(), start=1):
            try:
                entry = json.loads(line)
                self._results[_text(entry["key"])] = entry["result"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.path}, line {number}, is no result of a study: {line!r:.100}; move the "
                    "file away"
                ) from error


def _text(key: Record) -> str:
    return json.dumps(key, sort_keys=True, ensure_ascii=False)
