"""What is kept of a run that ends early, and how to go on with it."""

import errno
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lgrpo_lightning.checkpoint_io import CheckpointWriteError
from lgrpo_lightning.cli.run_folder import CHECKPOINTS, newest_checkpoint, shown_path


class SaveBeforeEnd(Callback):
    """Has ModelCheckpoint save once more when a run ends early.

    Only where all processes come to it together: saving is a collective, and an error of one
    process would leave it waiting for the others. SIGTERM is noticed by all after the same step.
    """

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Decide; the checkpoint callbacks come after this one."""
        together = trainer.world_size == 1 or isinstance(exception, SIGTERMException)
        together = together and not is_full_disk(exception)  # it would fail again
        callbacks = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        # One is enough, if possible that which keeps the last.
        callbacks.sort(key=lambda callback: not callback.save_last)
        for number, callback in enumerate(callbacks):
            callback.save_on_exception = together and number == 0


def is_full_disk(error: BaseException) -> bool:
    """Whether there is no room, or no permission, for what was to be written."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return isinstance(error, CheckpointWriteError)


def exit_code(end: SystemExit) -> Any:  # noqa: ANN401 - sys.exit takes anything
    """What a shell expects of a program that a signal ended; Lightning exits with 0 or 1."""
    if isinstance(end, SIGTERMException):
        return 128 + signal.SIGTERM
    return 128 + signal.SIGINT if isinstance(end.__context__, KeyboardInterrupt) else end.code


def farewell(folder: Path, trainer: Trainer, arguments: Sequence[str]) -> str:
    """Where the last checkpoint is and how to go on.

    Args:
        folder: the run's.
        trainer: its trainer.
        arguments: the command line after ``lgrpo``.
    """
    ended = f"ended early, after optimizer step {trainer.global_step}"
    saved = newest_checkpoint((folder / CHECKPOINTS).glob("*.ckpt"))
    if saved is None:
        return f"{ended}; no checkpoint was saved. Run folder: {folder}"
    command = shlex.join(["lgrpo", *_without_checkpoint(arguments), "--ckpt_path", "last"])
    return f"{ended}\n\nlast checkpoint: {shown_path(saved)}\n\ngo on with:\n  {command}"


def _without_checkpoint(arguments: Sequence[str]) -> list[str]:
    """The command line without ``--ckpt_path PATH`` or ``--ckpt_path=PATH``."""
    kept = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--ckpt_path":
            next(rest, None)
        elif not argument.startswith("--ckpt_path="):
            kept.append(argument)
    return kept
