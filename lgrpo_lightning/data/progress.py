"""How far a trainer is within an optimizer step."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer


def steps_to_redo(trainer: Trainer) -> int:
    """Training steps begun since the last optimizer step; 0 where one has just been made.

    A checkpoint holds no gradients, so a run that resumes from one taken in between makes these
    steps again. The weights have not changed since, so nothing is lost by it.
    """
    current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    accumulated = current.processed % trainer.accumulate_grad_batches
    if current.processed == trainer.num_training_batches:
        accumulated = 0  # the last batch of an epoch always makes an optimizer step
    return int(current.ready - current.processed + accumulated)


def rewind_progress(checkpoint: dict[str, Any], steps: int) -> None:
    """Take training steps back in the loops' progress that a checkpoint holds.

    Args:
        checkpoint: of a trainer, changed in place.
        steps: see :func:`steps_to_redo`.
    """
    if not steps:
        return
    batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (batches["current"], batches["total"]):
        done = counts["ready"] - steps
        counts |= dict.fromkeys(("ready", "started", "processed", "completed"), done)
    batches["is_last_batch"] = False
