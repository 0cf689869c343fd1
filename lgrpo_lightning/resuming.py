"""What is said when a run goes on from a place that cannot be restored exactly."""

import logging

from lgrpo_lightning.data import PromptBatch

log = logging.getLogger(__name__)


def announce_lost_gradients(micro_batches: int) -> None:
    """A checkpoint between two optimizer steps holds no gradients."""
    log.warning(
        "resuming between two optimizer steps: the gradients of %d micro-batches are lost, so the "
        "next step differs from that of an uninterrupted run",
        micro_batches,
    )


def announce_new_sample(batch: PromptBatch) -> None:
    """The completions of the rollout that is being worked off are not at hand."""
    log.warning(
        "resuming inside rollout %d of epoch %d without its completions: sampling anew with the "
        "current policy, so it differs from that of an uninterrupted run",
        batch.rollout,
        batch.epoch,
    )
