"""Many means at once, reduced over processes in one collective.

mean_k = Σ total_k / Σ count_k,  the sums over all updates and all processes
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

Total = Tensor | float


class NamedMeans(Metric):
    """Means of named quantities, each the ratio of a sum and a count.

    Example::

        >>> means = NamedMeans(["length", "reward"])
        >>> means.update({"length": (30.0, 2), "reward": (1.0, 2)})
        >>> means.update({"length": (20.0, 3)})
        >>> {name: round(value, 2) for name, value in means.compute().items()}
        {'length': 10.0, 'reward': 0.5}

    Args:
        names: what will be averaged; the same on all processes.

    Raises:
        ValueError: if a name is given twice.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, names: list[str], **kwargs: Any) -> None:  # noqa: ANN401 - torchmetrics' own
        super().__init__(**kwargs)
        if len(set(names)) != len(names):
            raise ValueError(f"names must differ, got {names}")
        self.names = sorted(names)
        # Precision "bf16-true" changes torch's default type, in which counts would be rounded.
        zeros = torch.zeros(len(names), 2, dtype=torch.float32)
        self.add_state("sums", zeros, dist_reduce_fx="sum")

    def update(self, totals: Mapping[str, tuple[Total, Total]]) -> None:
        """Add (total, count) pairs; names left out stay as they are.

        Raises:
            ValueError: if a name is not one of those announced.
        """
        unknown = set(totals) - set(self.names)
        if unknown:
            raise ValueError(f"unknown names {sorted(unknown)}; known are {self.names}")
        for name, (total, count) in totals.items():
            pair = [torch.as_tensor(part, dtype=self.sums.dtype) for part in (total, count)]
            self.sums[self.names.index(name)] += torch.stack([part.to(self.sums) for part in pair])

    def compute(self) -> dict[str, float]:
        """The means; NaN where nothing was counted."""
        totals, counts = self.sums.unbind(-1)
        return dict(zip(self.names, (totals / counts).tolist(), strict=True))
