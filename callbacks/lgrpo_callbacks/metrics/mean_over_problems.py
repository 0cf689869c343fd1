"""What pass@k and maj@k have in common: a mean over problems of something that depends on k."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanOverProblems(Metric):
    """Keeps a sum over problems and their number; subclasses add to both.

    Args:
        k: completions of a problem that count together.
        name: of the measure, for messages.
        **kwargs: arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: if k is below 1.
    """

    full_state_update = False
    higher_is_better = True
    total: Tensor
    problems: Tensor

    def __init__(self, k: int, name: str, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        if k < 1:
            raise ValueError(f"k of {name} must be 1 or more, got {k}")
        self.k = k
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("problems", torch.tensor(0.0), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """Return the mean over all problems; NaN if there were none."""
        return self.total / self.problems
