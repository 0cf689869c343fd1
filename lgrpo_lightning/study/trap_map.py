"""The map of where λ helps: share of runs that get out of a trap, over what it may depend on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import get_args

from lgrpo_lightning.study.base import Study
from lgrpo_lightning.study.jobs import Job
from lgrpo_lightning.study.landscape import Trap
from lgrpo_lightning.study.results import Record
from lgrpo_lightning.study.tabular import SOLVED, OptimizerName, TabularRun, Weighting
from lgrpo_lightning.study.training import CommandLine
from lgrpo_lightning.study.trap_report import write_report
from lgrpo_lightning.study.trap_table import CURVE_EVERY, TrapTable


@dataclass
class Budget:
    """How many policies are trained for a cell of the map.

    Args:
        steps: optimizer steps of a run.
        tuning_runs: runs for each learning rate, from which the best one is chosen.
        runs: fresh runs with that learning rate, which the map shows.
    """

    steps: int = 300
    tuning_runs: int = 100
    runs: int = 400

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("steps", "tuning_runs", "runs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class TrapMap(Study):
    """λ-GRPO and GRPO on :class:`~lgrpo_lightning.study.landscape.Trap`, each at its best.

    For each cell of the map and each weighting, the learning rate is tuned apart: λ-GRPO has the
    smaller gradient, which must not pass for an effect. Maps over depth and group size are made at
    temperature 1; temperature, the landscape without the trap and the weight |λ| are looked at for
    one group size.

    Args:
        learning_rates: candidates for each optimizer.
        depths: of the trap, in tokens.
        group_sizes: G.
        temperatures: τ; 1 has to be among them.
        contrast_group_size: G of all that is not the map over depth and group size.
        budget: steps and runs.

    Raises:
        ValueError: if there is nothing to compare.
    """

    def __init__(
        self,
        learning_rates: dict[OptimizerName, list[float]],
        depths: list[int],
        group_sizes: list[int],
        temperatures: list[float],
        contrast_group_size: int,
        budget: Budget,
    ) -> None:
        if 1.0 not in temperatures:
            raise ValueError(f"temperatures must hold 1, got {temperatures}")
        if contrast_group_size not in group_sizes:
            raise ValueError(
                f"contrast_group_size must be one of group_sizes {group_sizes}, got "
                f"{contrast_group_size}"
            )
        for optimizer, rates in learning_rates.items():
            if sorted(set(rates)) != rates or not rates:
                raise ValueError(f"learning_rates of {optimizer!r} must rise, got {rates}")
        self.learning_rates = learning_rates
        self.depths = depths
        self.group_sizes = group_sizes
        self.temperatures = temperatures
        self.contrast_group_size = contrast_group_size
        self.budget = budget

    def cells(self) -> list[TabularRun]:
        """Everything that is trained, one learning rate after another left out."""

        def cell(
            weighting: Weighting, optimizer: OptimizerName, trap: Trap, size: int, tau: float = 1.0
        ) -> TabularRun:
            return TabularRun(trap, weighting, optimizer, size, tau, self.budget.steps)

        cells = []
        for optimizer, depth in product(self.learning_rates, self.depths):
            contrast = self.contrast_group_size
            for weighting in get_args(Weighting)[:2]:
                cells += [
                    *(cell(weighting, optimizer, Trap(depth), size) for size in self.group_sizes),
                    *(
                        cell(weighting, optimizer, Trap(depth), contrast, tau)
                        for tau in self.temperatures
                        if tau != 1
                    ),
                    cell(weighting, optimizer, Trap(depth, easy=0.0), contrast),
                ]
            cells.append(cell("times |λ|", optimizer, Trap(depth), contrast))
        return cells

    def jobs(self, folder: Path, lgrpo: CommandLine) -> list[Job]:
        """A job for each cell: tuning, then fresh runs with the best learning rate."""
        return [
            Job(
                key={
                    "cell": asdict(cell),
                    "learning_rates": self.learning_rates[cell.optimizer],
                    "budget": asdict(self.budget),
                },
                name=(
                    f"{cell.optimizer}, depth {cell.trap.depth}, G {cell.group_size}, "
                    f"τ {cell.temperature}, easy {cell.trap.easy}: {cell.weighting}"
                ),
                work=partial(tune_and_run, cell, self.learning_rates[cell.optimizer], self.budget),
            )
            for cell in self.cells()
        ]

    def report(self, records: Sequence[Record], folder: Path) -> str:
        """Write ``map.png``, ``map.md`` and ``map.json``."""
        table = TrapTable(records, self.budget.tuning_runs, self.contrast_group_size)
        return write_report(table, folder)


def tune_and_run(cell: TabularRun, learning_rates: Sequence[float], budget: Budget) -> Record:
    """Choose the learning rate that solves most, then measure it on fresh runs.

    Where several solve equally many, the one that solves sooner is taken.

    Returns:
        The cell, ``tuning`` (per learning rate: share solved at the end, mean share over all
        steps), ``learning_rate``, ``solved`` of ``runs``, ``curve`` (share solved, every 10 steps).
    """
    solved = cell.train(learning_rates, budget.tuning_runs, seed=1) >= SOLVED  # [K, runs, steps]
    final = solved[..., -1].float().mean(1).tolist()
    speed = solved.float().mean((1, 2)).tolist()
    best = max(range(len(final)), key=lambda k: (final[k], speed[k]))
    fresh = (cell.train([learning_rates[best]], budget.runs, seed=2) >= SOLVED)[0]
    return {
        "cell": asdict(cell),
        "tuning": [
            {"learning_rate": rate, "solved": end, "mean": mean}
            for rate, end, mean in zip(learning_rates, final, speed, strict=True)
        ],
        "learning_rate": learning_rates[best],
        "solved": int(fresh[:, -1].sum()),
        "runs": budget.runs,
        "curve": fresh[:, CURVE_EVERY - 1 :: CURVE_EVERY].float().mean(0).tolist(),
    }
