"""λ-GRPO (process sets) for PyTorch Lightning.

The names below are imported on first use, so that ``import lgrpo_lightning.tree`` needs only torch
and a reward worker starts without loading a model library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lgrpo_lightning.data import PromptGroupDataModule
    from lgrpo_lightning.module import LambdaGRPO
    from lgrpo_lightning.objective import LambdaGRPOLoss
    from lgrpo_lightning.tree import ProcessTree

__version__ = "0.1.0"
__all__ = ["LambdaGRPO", "LambdaGRPOLoss", "ProcessTree", "PromptGroupDataModule", "__version__"]

_HOMES = {
    "LambdaGRPO": "lgrpo_lightning.module",
    "LambdaGRPOLoss": "lgrpo_lightning.objective",
    "ProcessTree": "lgrpo_lightning.tree",
    "PromptGroupDataModule": "lgrpo_lightning.data",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute may be anything
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
