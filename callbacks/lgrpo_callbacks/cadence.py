"""Optimizer steps, as seen from hooks that run after every micro-batch."""

from lightning.pytorch import Trainer


class Cadence:
    """Tells when an optimizer step has ended, and whether something is due with it.

    Args:
        every_n_steps: optimizer steps between two times at which it is.

    Attributes:
        due: whether the last optimizer step was such a time.

    Raises:
        ValueError: if ``every_n_steps`` is below 1.
    """

    def __init__(self, every_n_steps: int = 1) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be 1 optimizer step or more, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.due = False
        self._seen = 0

    def start(self, trainer: Trainer) -> None:
        """Count from the trainer's present optimizer step on."""
        self.due = False
        self._seen = trainer.global_step

    def step_ended(self, trainer: Trainer) -> bool:
        """Whether an optimizer step has ended since this was asked last; sets ``due``."""
        # Only an optimizer step moves it; gradient accumulation needs no other bookkeeping.
        step, before = trainer.global_step, self._seen
        self._seen = step
        # Several optimizers move it by several steps at once, so multiples may be jumped over.
        self.due = step // self.every_n_steps > before // self.every_n_steps
        return step != before
