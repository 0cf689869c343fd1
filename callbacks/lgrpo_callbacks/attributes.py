"""The few attributes of a module that callbacks about its weights need, found by name."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy


def find_attribute(pl_module: LightningModule, path: str, callback: object, argument: str) -> Any:  # noqa: ANN401
    """Return ``pl_module.<path>``, which may be None.

    Args:
        pl_module: the module.
        path: name of the attribute, with dots for an attribute of an attribute.
        callback: who asks.
        argument: of the callback that holds the path.

    Raises:
        ValueError: naming callback, argument and the name that is not there.
    """
    value: Any = pl_module
    for name in path.split("."):
        if value is None:
            return None
        if not hasattr(value, name):
            raise ValueError(
                f"{type(callback).__name__}({argument}={path!r}): {type(value).__name__} has no "
                f"attribute {name!r}; give the name of the attribute of "
                f"{type(pl_module).__name__} that holds it"
            )
        value = getattr(value, name)
    return value


def refuse_sharded(trainer: Trainer, callback: object) -> None:
    """Refuse strategies under which no process has the whole model.

    Raises:
        ValueError: naming callback and strategy.
    """
    if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
        raise ValueError(
            f"{type(callback).__name__} needs the whole model on every process, which "
            f"{type(trainer.strategy).__name__} splits up; use the strategy ddp, or remove "
            f"{type(callback).__name__} from the trainer's callbacks"
        )
