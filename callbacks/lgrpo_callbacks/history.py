"""A run's history in JSON Lines, a file per rank; a resumed run continues it."""

from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lgrpo_callbacks.folders import run_folder
from lgrpo_callbacks.jsonl import copy_until_step, cut_after_step, make_new_folder
from lgrpo_callbacks.ranks import sees_own_data


class History(NamedTuple):
    """Where a history is written.

    Attributes:
        folder: of the files of all ranks.
        path: this rank's file; None where a lower rank works on the same data (tensor parallelism)
            and writes the same.
    """

    folder: Path
    path: Path | None


def open_history(
    trainer: Trainer, dirname: str, previous: Path | None, callback: object
) -> History:
    """Open ``<run>/<dirname>/rank-<rank>.jsonl``. A collective.

    An earlier run's history is left alone: a new run gets ``<dirname>-2``. The history of the run
    that is resumed is cut after the checkpoint's optimizer step, as later steps are made again;
    where the resumed run has a folder of its own, it is copied there up to that step.

    Args:
        trainer: at the start of training, with its optimizer step restored.
        dirname: folder under the run's folder, or an absolute path.
        previous: folder of the history so far; ignored at optimizer step 0, where there is nothing
            to continue.
        callback: whose history it is, for the warning that it is gone.
    """
    previous = previous if trainer.global_step else None
    folder = own_folder(trainer, dirname, previous, callback, "history")
    if previous is not None:
        _keep_until_step(trainer, previous, folder)
    path = folder / f"rank-{trainer.global_rank}.jsonl" if sees_own_data(trainer) else None
    return History(folder, path)


def own_folder(
    trainer: Trainer, dirname: str, previous: Path | None, callback: object, what: str
) -> Path:
    """Return a folder that belongs to this run: the previous one, else a new one. A collective.

    Args:
        trainer: at the start of training.
        dirname: folder under the run's folder, or an absolute path.
        previous: folder of the run that is resumed; None for a new run.
        callback: whose folder it is, for the warning that the previous one is gone.
        what: lies in it, for the same.
    """
    wanted = run_folder(trainer, dirname)
    folder = wanted
    if trainer.is_global_zero:  # rank 0 decides
        known = previous is not None and previous.is_dir()
        if previous is not None and not known:
            rank_zero_warn(
                f"{type(callback).__name__}: the {what} of the run that is resumed is no longer at "
                f"{previous}; a new one begins at optimizer step {trainer.global_step + 1}"
            )
        if previous is not None and known and _is_numbered(previous, wanted):
            folder = previous
        else:
            folder = make_new_folder(wanted)
    shared: Path = trainer.strategy.broadcast(folder)
    shared.mkdir(parents=True, exist_ok=True)  # on nodes without a shared disk
    return shared


def _is_numbered(folder: Path, name: Path) -> bool:
    """Return whether a folder is ``name``, ``name-2``, ``name-3`` and so on."""
    return folder == name or (
        folder.parent == name.parent and folder.name.startswith(f"{name.name}-")
    )


def _keep_until_step(trainer: Trainer, previous: Path, folder: Path) -> None:
    """Bring a resumed history to the checkpoint's optimizer step.

    All its files are dealt out to the ranks, as the run may have more or fewer ranks than before.
    A rank gets its own file, so that it can write to it right away.
    """
    for path in previous.glob("rank-*.jsonl"):
        if int(path.stem.removeprefix("rank-")) % trainer.world_size != trainer.global_rank:
            continue
        if previous == folder:
            cut_after_step(path, trainer.global_step)
        else:
            copy_until_step(path, folder / path.name, trainer.global_step)
