"""Where in the data a checkpoint is, and where a run with other settings goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
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
    """Take training steps, and the end of an epoch, back in the progress that a checkpoint holds.

    Args:
        checkpoint: of a trainer, changed in place.
        steps: see :func:`steps_to_redo`.
    """
    loops = checkpoint["loops"]["fit_loop"]
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    if epochs["current"]["started"] == epochs["current"]["processed"]:
        # Taken at the end of an epoch, where Lightning with max_steps would count an empty epoch
        # when it resumes. At the end of its last step it does not.
        for counts in (epochs["current"], epochs["total"]):
            counts["processed"] = counts["completed"]
        for counts in (batches["current"], batches["total"]):
            counts["completed"] = counts["processed"] - 1
    if not steps:
        return
    for counts in (batches["current"], batches["total"]):
        done = counts["ready"] - steps
        counts |= dict.fromkeys(("ready", "started", "processed", "completed"), done)
    batches["is_last_batch"] = False


def fit_position(
    checkpoint: dict[str, Any], now: Mapping[str, int]
) -> dict[str, tuple[int | None, int]]:
    """Turn a checkpoint's position in the data into that of a run with other settings.

    The epoch goes on after as many prompts as were dealt; a rollout that is not worked off is begun
    anew. At an epoch's end nothing of it is left, whatever the settings.

    Args:
        checkpoint: of a trainer, changed in place.
        now: what a position is valid for, see ``PromptLoader.validity``.

    Returns:
        What differs: name → value in the checkpoint and now. Empty where the position holds.
    """
    loops = checkpoint["loops"]["fit_loop"]
    states = loops["state_dict"].get("combined_loader", [])
    if len(states) != 1 or "position" not in states[0]:
        return {}
    state, batches = states[0], loops["epoch_loop.batch_progress"]
    changed = {
        name: (state.get(name), value) for name, value in now.items() if state.get(name) != value
    }
    if changed:
        size, rollouts = now["prompts_per_rollout"], now["prompts"] // now["prompts_per_rollout"]
        dealt = state["position"] // state["steps_per_rollout"] * state["prompts_per_rollout"]
        done = rollouts if batches["is_last_batch"] else min(dealt // size, rollouts - 1)
        position = done * now["steps_per_rollout"]
        state |= {**now, "position": position}
        moved = position - batches["current"]["ready"]
        batches["current"] = {name: n + moved for name, n in batches["current"].items()}
    return changed
