"""Which local files make up which split of a data set."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from lgrpo_lightning.data.files import SUFFIXES, kind_of

# Names of splits in file and folder names, as the Hugging Face hub reads them.
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}


def files_by_name(patterns: Sequence[str]) -> dict[str, list[Path]]:
    """Return the files that paths and globs name. Together they are one split.

    The split has the name that all file names carry ("test" for ``test.jsonl``), else "train".

    Raises:
        ValueError: If a path or glob matches no file.
    """
    files = [file for pattern in patterns for file in _matching_files(pattern)]
    words = {_split_word(file.name) for file in files}
    return {(words.pop() if len(words) == 1 else None) or "train": files}


def files_of_folder(folder: Path) -> dict[str, list[Path]]:
    """Return the data files in a folder and below, by split.

    As on the Hugging Face hub, a file belongs to the split that its name, or else its folder,
    carries ("test-00000.parquet", "validation/a.jsonl"). Files that carry none are left out if
    others do, and are all "train" if none does.

    Raises:
        ValueError: If the folder holds no data files.
    """
    files = sorted(file for file in folder.rglob("*") if kind_of(file) in SUFFIXES)
    if not files:
        raise ValueError(
            f"the folder {str(folder)!r} holds no data: neither files of kind {SUFFIXES} nor a "
            "data set written by save_to_disk"
        )
    splits: dict[str, list[Path]] = {}
    for file in files:
        word = _split_word(file.relative_to(folder).as_posix())
        if word is not None:
            splits.setdefault(word, []).append(file)
    return splits or {"train": files}


def _matching_files(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    files = [match for match in matches if match.is_file()]
    if not files:
        raise ValueError(f"there is no file {pattern!r} (looked for in {Path.cwd()})")
    return files


def _split_word(path: str) -> str | None:
    """Return the split that a path names, the file's name counting before its folders."""
    for part in reversed(path.split("/")):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLIT_WORDS:
                return SPLIT_WORDS[word]
    return None
