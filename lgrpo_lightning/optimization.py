"""Optimizer and schedule as Lightning takes them."""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim import AdamW, Optimizer


def default_optimizer(params: Any) -> Optimizer:  # noqa: ANN401 - torch's ParamsT
    """AdamW as published GRPO runs have it."""
    return AdamW(params, lr=1e-6, weight_decay=0.0)


def optimization(
    parameters: Iterable[nn.Parameter],
    optimizer: OptimizerCallable,
    lr_scheduler: LRSchedulerCallable | None,
) -> Any:  # noqa: ANN401 - Lightning's own union
    """The optimizer over the trainable parameters, the scheduler stepped every optimizer step."""
    made = optimizer([parameter for parameter in parameters if parameter.requires_grad])
    if lr_scheduler is None:
        return made
    return {
        "optimizer": made,
        "lr_scheduler": {"scheduler": lr_scheduler(made), "interval": "step"},
    }
