"""The results of the map of where λ helps, by what was varied."""

from collections.abc import Sequence
from typing import Any

from lgrpo_lightning.study.intervals import Estimate, share_estimate
from lgrpo_lightning.study.results import Record

CURVE_EVERY = 10  # steps between points of the curves that are kept
_TRAP = 0.5  # reward of the easy way where there is a trap


class TrapTable:
    """Looks up the records of :func:`~lgrpo_lightning.study.trap_map.tune_and_run`.

    Args:
        records: one for each cell.
        tuning_runs: runs for each learning rate.
        contrast_group_size: G where something else than depth and G was varied.
    """

    def __init__(
        self, records: Sequence[Record], tuning_runs: int, contrast_group_size: int
    ) -> None:
        self.tuning_runs = tuning_runs
        self.contrast_group_size = contrast_group_size
        self.records = list(records)
        cells = [record["cell"] for record in records]
        self.weightings: list[str] = _unique(cell["weighting"] for cell in cells)
        self.optimizers: list[str] = _unique(cell["optimizer"] for cell in cells)
        self.group_sizes = sorted({cell["group_size"] for cell in cells})
        self.depths = sorted({cell["trap"]["depth"] for cell in cells})
        self.temperatures = sorted({cell["temperature"] for cell in cells})
        self._records = {_place(cell): record for cell, record in zip(cells, records, strict=True)}

    @property
    def middle_depth(self) -> int:
        """The depth that is shown where depth is not varied."""
        return int(self.depths[len(self.depths) // 2])

    def record(
        self,
        weighting: str,
        optimizer: str,
        depth: int,
        size: int | None = None,
        tau: float = 1.0,
        easy: float = _TRAP,
    ) -> Record:
        """The record of a cell; ``size`` None for the contrast group size."""
        size = self.contrast_group_size if size is None else size
        return self._records[(weighting, optimizer, depth, size, tau, easy)]

    def share(
        self, weighting: str, optimizer: str, depth: int, size: int, tau: float = 1.0
    ) -> Estimate:
        """Share of the fresh runs that solved a trap."""
        record = self.record(weighting, optimizer, depth, size, tau)
        return share_estimate(record["solved"], record["runs"])

    def tuning(self, weighting: str, optimizer: str, depth: int) -> list[dict[str, float]]:
        """Share solved for each learning rate at the contrast group size."""
        points: list[dict[str, float]] = self.record(weighting, optimizer, depth)["tuning"]
        return points

    def at_edge(self) -> list[Record]:
        """Records whose best learning rate is the smallest or largest that was tried.

        Those that a neighbour on the other side would not change are left out: all solved, or none.
        """
        return [
            record
            for record in self.records
            if record["learning_rate"]
            in (record["tuning"][0]["learning_rate"], record["tuning"][-1]["learning_rate"])
            and 0 < record["solved"] < record["runs"]
        ]


def _unique(values: Any) -> list[Any]:  # noqa: ANN401
    return list(dict.fromkeys(values))


def _place(cell: Record) -> tuple[Any, ...]:
    trap = cell["trap"]
    return (
        cell["weighting"],
        cell["optimizer"],
        trap["depth"],
        cell["group_size"],
        cell["temperature"],
        trap["easy"],
    )
