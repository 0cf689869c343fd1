"""Methods compared on one task: the same start, seeds and budget, held-out curves."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

from lgrpo_lightning.study.base import Study
from lgrpo_lightning.study.jobs import Job
from lgrpo_lightning.study.method_report import FIGURES, MethodRuns, write_report
from lgrpo_lightning.study.results import Record
from lgrpo_lightning.study.training import CommandLine, Options, TrainingRun, train
from lgrpo_lightning.study.tree_cost import RolloutShape


class MethodStudy(Study):
    """Held-out accuracy over optimizer steps, for each method and seed.

    Args:
        configs: config files of ``lgrpo fit`` for one run, later ones over earlier ones; they have
            to evaluate before training, with ``lgrpo_callbacks.RewardEvaluator``.
        methods: for each method values by dotted option that override the configs'. The first is
            the one that others are compared with.
        seeds: runs of each method.
        levels: accuracies; the study tells after how many steps each is reached.
        rollout: its size in the config, to time what the process sets cost.

    Raises:
        ValueError: if there is nothing to compare.
    """

    def __init__(
        self,
        configs: list[str],
        methods: dict[str, Options],
        seeds: int,
        levels: list[float],
        rollout: RolloutShape,
    ) -> None:
        if seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {seeds}")
        if len(methods) < 2:
            raise ValueError(f"methods must be at least two, got {list(methods)}")
        self.configs = configs
        self.methods = methods
        self.seeds = seeds
        self.levels = levels
        self.rollout = rollout

    def jobs(self, folder: Path, lgrpo: CommandLine) -> list[Job]:
        """A job for each run, seed by seed, so that an unfinished study has whole seeds."""
        jobs = []
        for seed, (method, options) in product(range(self.seeds), self.methods.items()):
            run = TrainingRun(self.configs, {**options, "seed_everything": seed}, FIGURES)
            name = f"{method}_seed-{seed}".replace("/", "-").replace(" ", "-")
            jobs.append(
                Job(
                    key={
                        "options": run.options,
                        "configs": run.contents(),
                    },
                    name=name,
                    work=partial(_train_and_time, lgrpo, run, self.rollout, folder / "runs", name),
                )
            )
        return jobs

    def report(self, records: Sequence[Record], folder: Path) -> str:
        """Write ``table.md``, ``accuracy.png``, ``trees.png`` and ``summary.json``."""
        runs: dict[str, list[Record]] = {method: [] for method in self.methods}
        places = product(range(self.seeds), self.methods)
        for (_, method), record in zip(places, records, strict=True):
            runs[method].append(record)
        return write_report(MethodRuns(runs, self.levels, self.rollout), folder)


def _train_and_time(
    lgrpo: CommandLine, run: TrainingRun, rollout: RolloutShape, folder: Path, name: str
) -> Record:
    """Train; then time the building of trees, in the same process right after."""
    return {**train(lgrpo, run, folder, name), "tree_seconds": rollout.tree_seconds()}
