"""Going on from a checkpoint with other options than the run that wrote it."""

from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

Changes = dict[str, tuple[Any, Any]]

_OPTIMIZER = "optimizer.init_args."
_SCHEDULER = "lr_scheduler.init_args."


def changed_options(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """Options of the model that differ: name with dots → value in the checkpoint, value now.

    Options that only one side knows come with another version of the program and are left out.

    Args:
        before: hyperparameters in the checkpoint.
        now: those of the module.
    """
    return dict(_differences(before, now, ""))


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for name in before.keys() & now.keys():
        old, new = before[name], now[name]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name}", (old, new)


class ResumedOptions(Callback):
    """Announces options that differ from the checkpoint's, and makes those of now hold.

    Lightning restores the state of optimizer and scheduler, and with it their options.

    Args:
        changes: see :func:`changed_options`.

    Raises:
        ValueError: for another optimizer, which could not use the state of the one before.
    """

    def __init__(self, changes: Changes) -> None:
        for name in ("optimizer", "optimizer.class_path"):
            if name in changes:
                old, new = changes[name]
                raise ValueError(
                    f"model.{name} is {old!r} in the checkpoint and {new!r} now; one cannot go on "
                    "from the other's state. Keep it, or start without --ckpt_path"
                )
        self.changes = dict(sorted(changes.items()))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Announce what differs."""
        for name, (old, new) in self.changes.items():
            rank_zero_info(f"changed since the checkpoint: model.{name} from {old!r} to {new!r}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the options of optimizer and scheduler that differ."""
        for name, (_, new) in self.changes.items():
            if name == f"{_OPTIMIZER}lr":
                _set_lr(trainer, new)
            elif name.startswith(_OPTIMIZER):
                _set_in_groups(trainer, name.removeprefix(_OPTIMIZER), new)
            elif name.startswith(_SCHEDULER):
                _set_in_schedulers(trainer, name.removeprefix(_SCHEDULER), new)


def _set_lr(trainer: Trainer, lr: float) -> None:
    """Set the learning rate; under a scheduler, keep its factor at this point of the schedule."""
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group["lr"] *= lr / group.get("initial_lr", group["lr"])
            if "initial_lr" in group:
                group["initial_lr"] = lr
    for config in trainer.lr_scheduler_configs:
        config.scheduler.base_lrs = [lr for _ in config.scheduler.base_lrs]


def _set_in_groups(trainer: Trainer, name: str, value: Any) -> None:  # noqa: ANN401
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group[name] = value


def _set_in_schedulers(trainer: Trainer, name: str, value: Any) -> None:  # noqa: ANN401
    for config in trainer.lr_scheduler_configs:
        if name in vars(config.scheduler):
            setattr(config.scheduler, name, value)
        else:
            rank_zero_warn(
                f"model.{_SCHEDULER}{name} stays as it is in the checkpoint: "
                f"{type(config.scheduler).__name__} does not look at it again"
            )
