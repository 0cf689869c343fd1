"""Signals that wait while the weights change, so that what is saved is of one optimizer step."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.optim import Optimizer

Handler = Callable[[int, FrameType | None], Any]


class SafeMoments(Callback):
    """Has signals end a run as soon as it can be saved, and no sooner.

    Between the optimizer's work and the end of all callbacks, weights, counters and logs are of
    different steps. Ctrl-C then waits for the next training step or batch of an evaluation; a
    second one does not. Everywhere else it ends the run at once, in the midst of sampling too, as
    what was begun since the last optimizer step is made again. So does SIGTERM on one process; on
    several, Lightning ends all of them after the same training step.

    SLURM's signal to requeue is answered before the next training step, on several processes by all
    of them before the same one, as saving is a collective.
    """

    def __init__(self) -> None:
        self._changing = False
        self._interrupted = False
        self._requeue: list[tuple[int, FrameType | None]] = []
        self._requeue_handler: Handler | None = None
        self._requeues = False
        self._terminate: Any = signal.SIG_DFL

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the handlers that are there; Lightning restores them at the end."""
        self._changing = self._interrupted = False
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._on_interrupt)
        if trainer.world_size == 1:
            self._terminate = signal.getsignal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, self._on_terminate)
        environment = trainer._accelerator_connector.cluster_environment
        self._requeues = isinstance(environment, SLURMEnvironment) and environment.auto_requeue
        if isinstance(environment, SLURMEnvironment) and self._requeues:
            number = environment.requeue_signal or signal.SIGUSR1
            handler = signal.getsignal(number)
            if callable(handler):
                self._requeue_handler = handler
                signal.signal(number, self._on_requeue)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """From here on the weights change."""
        self._changing = True

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401 - Lightning's
        batch_idx: int,
    ) -> None:
        """Answer what came meanwhile."""
        self._answer()
        if self._requeues and self._wanted_anywhere(trainer):
            for number, frame in self._requeue or [(int(signal.SIGUSR1), None)]:
                if self._requeue_handler is not None:
                    self._requeue_handler(number, frame)
            self._requeue = []

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Answer what came meanwhile; the step before is complete."""
        self._answer()

    def _answer(self) -> None:
        self._changing = False
        if self._interrupted:
            raise KeyboardInterrupt

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._changing and not self._interrupted:
            self._interrupted = True
            rank_zero_info("ending after this optimizer step; once more to end at once")
            return
        raise KeyboardInterrupt

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        if callable(self._terminate):
            self._terminate(number, frame)  # Lightning's, which ends the run after a training step
        if not (self._changing or self._requeues):
            raise SIGTERMException

    def _on_requeue(self, number: int, frame: FrameType | None) -> None:
        self._requeue.append((number, frame))

    def _wanted_anywhere(self, trainer: Trainer) -> bool:
        if trainer.world_size == 1:
            return bool(self._requeue)
        wanted = torch.tensor(len(self._requeue), device=trainer.strategy.root_device)
        return bool(trainer.strategy.reduce(wanted, reduce_op="max") > 0)
