"""Means of named values over the tokens that count, exact across micro-batches and processes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class MeansAndWeights(NamedTuple):
    """What :class:`MaskedMeans` computes.

    Attributes:
        means: name → scalar, Σ values / weight; NaN where nothing was counted.
        weights: name → scalar, how many values were counted.
    """

    means: dict[str, Tensor]
    weights: dict[str, Tensor]


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Return [Σ values over the mask, size of the mask] as a float32 tensor of shape [2].

    What lies outside the mask may be anything, NaN and infinity included.
    """
    if values.shape != mask.shape:
        raise ValueError(
            f"values and mask must have one shape, got {list(values.shape)} and {list(mask.shape)}"
        )
    kept = torch.where(mask, values.float(), torch.zeros((), device=values.device))
    return torch.stack([kept.sum(), mask.sum().float()])


class MaskedMeans(Metric):
    """Σ values / Σ mask for several names, in one state tensor and thus in one collective.

    Sums and counts are added up, never means, so the result does not depend on how the tokens are
    spread over micro-batches and processes.

    Args:
        names: the names of the means.
        **kwargs: arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: for repeated names, a name that was not announced, or a mask of another shape.

    Example::

        >>> import torch
        >>> metric = MaskedMeans(["kl"])
        >>> metric.update({"kl": torch.tensor([1.0, 3.0, 9.0])}, torch.tensor([True, True, False]))
        >>> metric.compute().means["kl"]
        tensor(2.)
    """

    full_state_update = False
    sums: Tensor  # [2, K]: sums of values, counts

    def __init__(self, names: Sequence[str], **kwargs: Any) -> None:  # noqa: ANN401
        kwargs.setdefault("dist_sync_fn", _sum_over_processes)
        super().__init__(**kwargs)
        if len(set(names)) != len(names):
            raise ValueError(f"every name must be different, got {list(names)}")
        self._columns = {name: column for column, name in enumerate(names)}
        self.add_state("sums", torch.zeros(2, len(names)), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, Tensor], mask: Tensor) -> None:
        """Count values, all over the same mask.

        Args:
            values: name → tensor of the mask's shape.
            mask: bool, which values count.
        """
        unknown = values.keys() - self._columns.keys()
        if unknown:
            raise ValueError(f"unknown names {sorted(unknown)}; known are {list(self._columns)}")
        for name, value in values.items():
            # The module may have moved its outputs off the device on which sums are reduced.
            self.sums[:, self._columns[name]] += masked_sum(value, mask).to(self.sums.device)

    def compute(self) -> MeansAndWeights:
        """Return means and counts of everything counted since the last reset."""
        totals, weights = self.sums
        means = totals / weights  # 0 / 0 is NaN: nothing was counted
        return MeansAndWeights(
            means={name: means[column] for name, column in self._columns.items()},
            weights={name: weights[column] for name, column in self._columns.items()},
        )


def _sum_over_processes(state: Tensor, group: Any = None) -> list[Tensor]:  # noqa: ANN401
    """One all-reduce in place of torchmetrics' gathers, in the form torchmetrics sums up."""
    total = state.clone()
    torch.distributed.all_reduce(total, group=group)
    return [total]
