"""A resumed run's logs go on where the checkpoint was taken, without a line lost or doubled."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from lgrpo_lightning.cli.metrics_csv import MetricsCSV, Row, read_rows
from lgrpo_lightning.data.progress import steps_to_redo

_BEST = (
    "best_model_path",
    "best_model_score",
    "best_k_models",
    "kth_best_model_path",
    "kth_value",
    "current_score",
)


class Continuation(Callback):
    """Makes up for what a run had still to do at the moment of its checkpoint.

    A checkpoint is written before the figures of its optimizer step are logged and before the
    evaluation that is due after it. A killed run leaves both undone, and Lightning takes them for
    done. So the checkpoint says what was still to come. A resumed run begins with the rows of
    ``metrics.csv`` up to the checkpoint, logs the step's figures, and evaluates if that was due.

    Its place is after all callbacks that log and before those that write checkpoints.
    """

    def __init__(self) -> None:
        self._evaluated = True
        self._caught_up = False  # with a checkpoint, and no step was made since
        self._before: dict[str, Any] = {}
        self._best: dict[str, Any] = {}  # what ModelCheckpoints kept, by their state's key

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401 - Lightning's
        batch_idx: int,
    ) -> None:
        """A new step begins."""
        self._caught_up = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here to the end a checkpoint finds the evaluation undone."""
        self._evaluated = trainer.sanity_checking

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The evaluation is done."""
        self._evaluated = True

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note how far the logs are and what is still to come."""
        loop = trainer.fit_loop.epoch_loop
        batches: Any = loop.batch_progress.current
        # Between the optimizer step and the logging of its figures: in on_train_batch_end.
        logging = batches.processed == batches.ready > batches.completed
        ended = logging and not loop._should_accumulate() and not self._caught_up
        evaluate = not self._evaluated
        if ended and trainer.fit_loop._data_fetcher is not None:
            evaluate = loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
        checkpoint["lgrpo_continuation"] = {
            "metrics": {
                str(logger.path): logger.rows
                for logger in trainer.loggers
                if isinstance(logger, MetricsCSV)
            },
            "step": loop._batches_that_stepped,
            "redo": steps_to_redo(trainer) > 0,
            "figures": _figures(trainer) if ended else {},
            "evaluate": evaluate,
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take over what was still to come."""
        self._before = checkpoint.get("lgrpo_continuation", {})
        self._best = checkpoint.get("callbacks", {})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Catch up with the moment of the checkpoint."""
        self._keep_best(trainer)
        self._caught_up = bool(self._before)
        before, self._before = self._before, {}
        if not before:
            return
        # What was logged between two optimizer steps is logged again when the step is made again.
        end = before["step"] if before["redo"] and before["step"] else None
        self._copy_rows(trainer, before["metrics"], end)
        if before["figures"]:
            for logger in trainer.loggers:
                logger.log_metrics(before["figures"], before["step"])
                logger.save()
        if before["evaluate"] and trainer.enable_validation:
            _evaluate(trainer)

    def _keep_best(self, trainer: Trainer) -> None:
        """Hold later checkpoints against the best so far, which Lightning forgets in a new folder.

        The file stays in the former folder.
        """
        for callback in trainer.checkpoint_callbacks:
            state = self._best.get(callback.state_key)
            if isinstance(callback, ModelCheckpoint) and callback.monitor and state:
                for name in _BEST:
                    setattr(callback, name, state[name])
        self._best = {}

    def _copy_rows(self, trainer: Trainer, counts: dict[str, int], end: int | None) -> None:
        loggers = [logger for logger in trainer.loggers if isinstance(logger, MetricsCSV)]
        if not trainer.is_global_zero or not loggers or not counts:
            return
        ((path, count),) = counts.items()
        rows: list[Row] = read_rows(Path(path))[:count] if os.path.exists(path) else []
        if len(rows) < count:
            rank_zero_warn(
                f"the metrics of the run that is resumed are no longer whole in {path}: "
                f"{len(rows)} of {count} rows are there"
            )
        for row in rows:
            if end is not None and row["step"] >= end:
                break
            loggers[0].log_metrics(row, row.pop("step"))
        loggers[0].save()


def _figures(trainer: Trainer) -> dict[str, float]:
    """What is about to be logged of an optimizer step; nothing where it is none of every n."""
    connector = trainer._logger_connector
    if not connector.should_update_logs:
        return {}
    figures = {name: float(value) for name, value in connector.metrics["log"].items()}
    return {**figures, "epoch": trainer.current_epoch} if figures else {}


def _evaluate(trainer: Trainer) -> None:
    """Evaluate as Lightning does between two training steps."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False
    trainer.validating = True
    loop.run()
    trainer.training = True
