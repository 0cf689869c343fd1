"""Checkpoint files that are whole or not there at all, also after a kill or on a full disk."""

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch.plugins.io import TorchCheckpointIO

_UNFINISHED = ".unfinished"


class CheckpointWriteError(RuntimeError):
    """A checkpoint that could not be written; the one before is as it was."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the wanted place, waits for the disk, then renames.

    Lightning's own writes into the system's temporary folder, which often is another disk, so that
    the file appears bit by bit where it is wanted; and it holds the checkpoint in memory twice.
    Remote places are left to it.

    Example::

        trainer = Trainer(plugins=[WholeCheckpointIO()])
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any | None = None,  # noqa: ANN401 - Lightning's
    ) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: what ``torch.save`` takes.
            path: where; a file there is replaced.
            storage_options: none are known.

        Raises:
            CheckpointWriteError: if it cannot be written, as on a full disk.
        """
        if storage_options is not None or not _is_local_file_protocol(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(checkpoint, place)
        except Exception as error:
            cause = _cause(error)
            if cause is None:
                raise
            before = "; the file of that name is as it was" if place.exists() else ""
            raise CheckpointWriteError(
                f"the checkpoint {place} cannot be written: {cause.strerror}{before}. Make room or "
                "allow writing there, then go on from the newest checkpoint"
            ) from error


def remove_unfinished(folders: Iterable[Path]) -> list[Path]:
    """Delete what killed processes left of checkpoints that they were writing.

    Args:
        folders: that hold checkpoints.

    Returns:
        The files that were deleted; those of living processes are kept.
    """
    removed = []
    for folder in folders:
        for path in folder.glob(f".*{_UNFINISHED}"):
            with path.open("ab") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                path.unlink()
                removed.append(path)
    return removed


def _write_whole(checkpoint: dict[str, Any], place: Path) -> None:
    unfinished = place.with_name(f".{place.name}{_UNFINISHED}")
    try:
        with unfinished.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed, or the process is gone
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, place)
    except BaseException:  # an interruption, too
        unfinished.unlink(missing_ok=True)
        raise
    number = os.open(place.parent, os.O_RDONLY)  # so that the name survives a loss of power
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _cause(error: BaseException | None) -> OSError | None:
    """The operating system's error behind one of torch's."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
