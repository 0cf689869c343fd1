"""What a checkpoint keeps of the rollout that is being worked off."""

import logging
from typing import Any

import torch
from lightning.pytorch import Trainer

from lgrpo_lightning.data import PromptBatch
from lgrpo_lightning.data.module import step_under_way
from lgrpo_lightning.rollout import Rollout
from lgrpo_lightning.schedule import RolloutSchedule
from lgrpo_lightning.step_log import StepLog

log = logging.getLogger(__name__)


class CurrentRollout:
    """The rollout that is being worked off, across checkpoints.

    A resumed run samples every rollout by its place in the run, so nothing needs to be kept at a
    rollout's boundary. Inside one the weights that sampled it are gone, so its record is kept.

    Args:
        step_log: of the module, which holds the rollout's figures.

    Attributes:
        rollout: None before the first one.
        unfinished: whether training steps are still to be made of it.
    """

    def __init__(self, step_log: StepLog) -> None:
        self._step_log = step_log
        self.rollout: Rollout | None = None
        self.unfinished = False

    def serves(self, batch: PromptBatch, schedule: RolloutSchedule, reference: bool) -> bool:
        """Whether the next training step is made of it; says so when something was lost.

        Args:
            batch: of the next training step.
            schedule: how its rollout is worked off.
            reference: whether reference log-probs are needed.
        """
        micro_batches = batch.step % schedule.accumulate
        if micro_batches and not self._step_log.under_way:
            log.warning(
                "resuming between two optimizer steps: the gradients of %d micro-batches are lost, "
                "so the next step differs from that of an uninterrupted run",
                micro_batches,
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
        """Keep the rollout and its figures while updates are still to be made of it."""
        needed = self.unfinished or step_under_way(trainer)
        if self.rollout is not None and needed and trainer.world_size == 1:
            checkpoint["lgrpo_rollout"] = self.rollout.state_dict()
            checkpoint["lgrpo_rollout_figures"] = self._step_log.rollout_figures

    def load(self, checkpoint: dict[str, Any], device: torch.device) -> None:
        """Take the rollout from a checkpoint that has one."""
        if "lgrpo_rollout" in checkpoint:
            self.rollout = Rollout.from_state_dict(checkpoint["lgrpo_rollout"], device)
            self.unfinished = True
            self._step_log.rollout_figures = checkpoint["lgrpo_rollout_figures"]

    def start(self, device: torch.device) -> None:
        """Begin to train: with the rollout where the model is, and no step under way."""
        self._step_log.restart()
        if self.rollout is not None:
            self.rollout = self.rollout.to(device)
