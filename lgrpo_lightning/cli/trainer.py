"""Lightning's Trainer, with one folder for all that a run writes."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.plugins.io import TorchCheckpointIO

import lgrpo_lightning.fsdp2  # noqa: F401 - so that trainer.strategy knows fsdp2
from lgrpo_lightning.checkpoint_io import WholeCheckpointIO


class RunTrainer(Trainer):
    """Lightning's trainer, with one folder for all that a run writes.

    Its ``log_dir`` is its ``default_root_dir``, whatever the loggers are. Lightning's own follows
    the first logger, so that config, completions and evaluations would lie in another place for
    each kind of logger. The docstrings of its methods are what ``--help`` says of the commands.
    """

    @property
    def log_dir(self) -> str:
        """The run's folder, that of the first process. A collective."""
        folder: str = self.strategy.broadcast(self.default_root_dir)
        return folder

    def fit(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Trainer.fit's
        """Train a policy, and evaluate it on the way."""
        super().fit(*args, **kwargs)

    def validate(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Evaluate a policy on the evaluation prompts."""
        return super().validate(*args, **kwargs)

    def test(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Evaluate a policy like validate, with figures called test/… for eval/…."""
        return super().test(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Write completions of the evaluation prompts and their rewards."""
        return super().predict(*args, **kwargs)


class RunFitLoop(_FitLoop):
    """Lightning's loop, which also ends a run that was killed after its last optimizer step.

    Lightning's own does nothing then: neither the last evaluation nor ``on_train_end``.
    """

    @property
    def skip(self) -> bool:
        """Whether there is nothing to do."""
        nothing = self.max_batches == 0 or self.trainer.limit_train_batches == 0
        return bool(nothing or (super().skip and not self.is_resuming))


def make_resumable(trainer: Trainer) -> None:
    """Have a trainer write whole checkpoints, and end runs that were killed before their end."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # no other was asked for
        trainer.strategy.checkpoint_io = WholeCheckpointIO()
    loop = RunFitLoop(trainer, trainer.fit_loop.min_epochs, trainer.fit_loop.max_epochs)
    loop.epoch_loop = trainer.fit_loop.epoch_loop
    trainer.fit_loop = loop
