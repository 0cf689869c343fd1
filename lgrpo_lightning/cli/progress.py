"""The progress bar of a run."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class RunProgressBar(TQDMProgressBar):
    """One line with reward, KL and speed that also fits a terminal of 80 columns."""

    BAR_FORMAT = "{desc} {bar} {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"

    @property
    def total_train_batches(self) -> int | float:
        """Training steps of the epoch, or fewer where ``max_steps`` ends the run.

        Lightning's own takes the optimizer steps that are left for training steps.
        """
        trainer = self.trainer
        batches = trainer.num_training_batches
        if trainer.max_steps < 0:
            return batches
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        left = (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches
        return min(batches, done + left)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The figures, the speed last, with digits that can be read at a glance."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        names = sorted(metrics, key=lambda name: name == "tok/s")
        return {name: _shown(metrics[name]) for name in names}


def _shown(
    value: int | str | float | dict[str, float],
) -> int | str | float | dict[str, float]:
    if not isinstance(value, float):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"
