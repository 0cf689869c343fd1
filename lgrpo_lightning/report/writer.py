"""Writes a report where it belongs, whole or not at all, and over no other file."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from lgrpo_lightning.report.page import render_page
from lgrpo_lightning.report.run import check_folders, read_runs

_MARK = re.compile(rb'<meta name="lgrpo-runs" content="([0-9a-f]+)">')
_MARK_WITHIN = 4_000  # bytes from the beginning of a report


def write_report(folders: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write the report of one run, or of several that are compared, as one HTML file.

    Args:
        folders: of the runs, as ``lgrpo fit`` makes them.
        out: the file; by default ``report.html`` in the run's folder, or, for several runs, in the
            folder that holds them all. A report of the same runs is replaced, no other file is.

    Returns:
        The file.

    Raises:
        ValueError: if a folder is no run, or ``out`` is a file that is no report of these runs.
    """
    runs = [Path(folder) for folder in folders]
    check_folders(runs)
    path = default_path(runs) if out is None else Path(out)
    mark = runs_mark(runs)
    _check_target(path, mark)
    content = render_page(read_runs(runs), mark)
    _replace(path, content)
    return path


def default_path(runs: Sequence[Path]) -> Path:
    """Return where the report of these runs is by default."""
    if len(runs) == 1:
        return runs[0] / "report.html"
    return Path(os.path.commonpath([run.resolve() for run in runs])) / "report.html"


def runs_mark(runs: Sequence[Path]) -> str:
    """Return what tells reports of different runs apart, without telling where the runs lie."""
    places = "\n".join(sorted(str(run.resolve()) for run in runs))
    return hashlib.sha256(places.encode("utf-8", errors="surrogateescape")).hexdigest()[:32]


def _check_target(path: Path, mark: str) -> None:
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder; give the name of a file, such as report.html")
    if not path.exists():
        return
    with path.open("rb") as file:
        found = _MARK.search(file.read(_MARK_WITHIN))
    if found is None:
        raise ValueError(f"{path} exists and is no report; give another file by --out")
    if found[1].decode() != mark:
        raise ValueError(
            f"{path} is the report of other runs (or of these at another place); give another "
            "file by --out, or delete it"
        )


def _replace(path: Path, content: bytes) -> None:
    """Put a file in place at once, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, as only there replacing is atomic.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
