"""Folders that are replaced as a whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing_folder(place: Path) -> Iterator[Path]:
    """Fill a new folder that takes the place of another once it is complete.

    Whatever happens, what lies at ``place`` is complete. A kill between the two renames of the swap
    leaves the previous content beside it, see :func:`finish_swap`.

    Args:
        place: the folder to be replaced, which need not exist.

    Yields:
        An empty folder beside it, to be filled.
    """
    unfinished = place.with_name(f".{place.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed process
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    for path in unfinished.rglob("*"):
        if path.is_file():
            _wait_for_disk(path)
    finish_swap(place)
    previous = _previous(place)
    if place.exists():
        os.rename(place, previous)
    os.rename(unfinished, place)
    shutil.rmtree(previous, ignore_errors=True)


def finish_swap(place: Path) -> None:
    """Bring a folder back whose replacement a kill interrupted."""
    previous = _previous(place)
    if not previous.exists():
        return
    if place.exists():
        shutil.rmtree(previous)
    else:
        os.rename(previous, place)


def _previous(place: Path) -> Path:
    return place.with_name(f".{place.name}.previous")


def _wait_for_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
