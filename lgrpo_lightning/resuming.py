"""What a checkpoint keeps of the rollout that is being worked off."""

import logging
from typing import Any

import torch
from lightning.pytorch import Trainer

from lgrpo_lightning.data import PromptBatch, PromptGroupDataModule
from lgrpo_lightning.data.progress import fit_position, rewind_progress, steps_to_redo
from lgrpo_lightning.rollout import Rollout
from lgrpo_lightning.schedule import RolloutSchedule
from lgrpo_lightning.step_log import StepLog

log = logging.getLogger(__name__)


class CurrentRollout:
    """The rollout that is being worked off, across checkpoints.

    A checkpoint is always of an optimizer step: training steps after it are made again, because
    their gradients are not kept. A rollout is sampled by its place in the run, so nothing needs to
    be kept at its boundary. Inside it the weights that sampled it are gone, so its record is kept.

    Args:
        step_log: of the module, which holds the rollout's figures.

    Attributes:
        rollout: None before the first one.
    """

    def __init__(self, step_log: StepLog) -> None:
        self._step_log = step_log
        self.rollout: Rollout | None = None
        # Training steps of the run before the first of the rollout, and how many are made of it.
        self._place = (0, 0)

    def serves(
        self, batch: PromptBatch, schedule: RolloutSchedule, reference: bool, trainer: Trainer
    ) -> bool:
        """Whether the next training step is made of it; says so when something was lost.

        Args:
            batch: of the next training step.
            schedule: how its rollout is worked off.
            reference: whether reference log-probs are needed.
            trainer: at the start of the step.
        """
        self._place = trainer.fit_loop.total_batch_idx - batch.step, batch.steps
        missing = batch.step % schedule.accumulate
        if missing and not self._step_log.under_way:
            log.warning(
                "resuming inside an optimizer step of accumulate_grad_batches %d, which was "
                "another number before: the next one lacks its first %d micro-batches",
                schedule.accumulate,
                missing,
            )
        if batch.step == 0:
            return False
        if self.rollout and self.rollout.serves(
            batch.epoch, batch.rollout, schedule.shape, reference
        ):
            return True
        log.warning(
            "resuming inside rollout %d of epoch %d without its completions: sampling anew with "
            "the current policy, so it differs from that of an uninterrupted run",
            batch.rollout,
            batch.epoch,
        )
        return False

    def save(self, checkpoint: dict[str, Any], trainer: Trainer) -> None:
        """Make it a checkpoint of the last optimizer step; keep the rollout if it goes on there."""
        redo = steps_to_redo(trainer)
        rewind_progress(checkpoint, redo)
        begun_at, steps = self._place
        done = trainer.fit_loop.total_batch_idx + 1 - redo - begun_at
        if self.rollout is not None and 0 < done < steps and trainer.world_size == 1:
            checkpoint["lgrpo_rollout"] = self.rollout.state_dict()
            checkpoint["lgrpo_rollout_place"] = self._place
            checkpoint["lgrpo_rollout_figures"] = self._step_log.rollout_figures

    def load(self, checkpoint: dict[str, Any], device: torch.device) -> None:
        """Take the rollout from a checkpoint that has one."""
        if "lgrpo_rollout" in checkpoint:
            self.rollout = Rollout.from_state_dict(checkpoint["lgrpo_rollout"], device)
            self._place = checkpoint["lgrpo_rollout_place"]
            self._step_log.rollout_figures = checkpoint["lgrpo_rollout_figures"]

    def start(self, device: torch.device) -> None:
        """Begin to train: with the rollout where the model is, and no step under way."""
        self._step_log.restart()
        if self.rollout is not None:
            self.rollout = self.rollout.to(device)


def note_origin(checkpoint: dict[str, Any], seed: int, processes: int) -> None:
    """Keep what samples depend on beside their place in the run."""
    checkpoint["lgrpo_origin"] = _origin(seed, processes)


def fit_to_settings(checkpoint: dict[str, Any], trainer: Trainer, seed: int) -> None:
    """Make a checkpoint of other settings one that this run can go on from, and say so.

    Args:
        checkpoint: from which a fit is about to start, changed in place.
        trainer: of this run.
        seed: of sampling.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, PromptGroupDataModule):
        return
    changed: dict[str, Any] = fit_position(checkpoint, data.train_dataloader().validity())
    anew = "; the rollout under way is begun anew" if changed else ""
    before, now = checkpoint.get("lgrpo_origin", {}), _origin(seed, trainer.world_size)
    changed |= {name: (before[name], now[name]) for name in before if before[name] != now[name]}
    if "data" in changed:  # its fingerprint says nothing to a person
        changed["data"] = "the former prompts", "others"
    if changed:
        words = (f"{name} from {old} to {new}" for name, (old, new) in changed.items())
        log.warning(
            "changed since the checkpoint: %s. So the run goes on differently than it would have%s",
            ", ".join(words),
            anew,
        )


def _origin(seed: int, processes: int) -> dict[str, int]:
    return {"the seed of sampling": seed, "processes": processes}
