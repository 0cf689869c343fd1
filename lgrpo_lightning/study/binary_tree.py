"""The binary-tree study of the paper: GRPO and λ-GRPO, n × r_neg, many seeds."""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path

from lgrpo_lightning.study.base import Study
from lgrpo_lightning.study.jobs import Job
from lgrpo_lightning.study.results import Record
from lgrpo_lightning.study.training import CommandLine, TrainingRun, train
from lgrpo_lightning.study.tree_policy import PROMPT, make_tree_policy
from lgrpo_lightning.study.tree_report import TARGET_SHARE, TreeRuns, write_report

_DEPTH = 4
METHODS = {"GRPO": False, "λ-GRPO": True}


@dataclass(frozen=True)
class TreePolicy:
    """The size of the study's GPT-2.

    Args:
        layers: transformer blocks.
        width: of the residual stream.
        heads: of attention.
    """

    layers: int = 2
    width: int = 64
    heads: int = 2


class BinaryTreeStudy(Study):
    """How often the policy samples the target path in the end.

    Sullivan & Koller, arXiv 2509.21154, toy study: four tokens, each L or R; the target gets 1,
    other paths that share its first n tokens r_neg < 0, all others 0.7.

    Args:
        config: config file of ``lgrpo fit`` for one run.
        shared: values of n, tokens.
        negative: values of r_neg.
        seeds: runs of each cell and method. A seed has a policy, a target and random numbers of its
            own, the same for both methods and in all cells. Targets differ since GPT-2's tied
            embeddings make a policy that repeats itself, to which LLLL comes easily.
        last_steps: optimizer steps over which the share of the target is taken.
        policy: the size of the policy.

    Raises:
        ValueError: if there is nothing to run.
    """

    def __init__(
        self,
        config: str,
        shared: list[int],
        negative: list[float],
        seeds: int,
        last_steps: int,
        policy: TreePolicy,
    ) -> None:
        if seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {seeds}")
        if last_steps < 1:
            raise ValueError(f"last_steps must be at least 1, got {last_steps}")
        self.config = config
        self.cells = list(product(shared, negative))
        self.seeds = seeds
        self.last_steps = last_steps
        self.policy = policy

    def jobs(self, folder: Path, lgrpo: CommandLine) -> list[Job]:
        """A job for each run, seed by seed, so that an unfinished study has whole seeds."""
        jobs = []
        for seed in range(self.seeds):
            policy = folder / "policies" / f"seed-{seed}"
            make_tree_policy(policy, seed, **asdict(self.policy))
            target = "".join(random.Random(seed).choices("LR", k=_DEPTH))
            data = folder / "prompts" / f"{target}.jsonl"
            data.parent.mkdir(parents=True, exist_ok=True)
            row = {"prompt": PROMPT, "answer": target}
            data.write_text(json.dumps(row) + "\n", encoding="utf-8")
            for (shared, negative), method in product(self.cells, METHODS):
                options = {
                    "model.policy.path": str(policy),
                    "data.path": str(data),
                    "seed_everything": seed,
                    "model.rewards": _rewards(target, shared, negative),
                    "model.loss.process_set_scaling": METHODS[method],
                }
                run = TrainingRun([self.config], options, [TARGET_SHARE])
                name = f"n-{shared}_r{negative:+g}_{method}_seed-{seed}"
                jobs.append(
                    Job(
                        key={
                            "shared": shared,
                            "negative": negative,
                            "method": method,
                            "seed": seed,
                            "target": target,
                            "policy": asdict(self.policy),
                            "configs": run.contents(),
                        },
                        name=name,
                        work=partial(train, lgrpo, run, folder / "runs", name),
                    )
                )
        return jobs

    def report(self, records: Sequence[Record], folder: Path) -> str:
        """Write ``table.md``, ``curves.png`` and ``summary.json``."""
        places = [
            (shared, negative, method)
            for _ in range(self.seeds)
            for (shared, negative), method in product(self.cells, METHODS)
        ]
        runs: dict[tuple[int, float, str], list[list[float]]] = {place: [] for place in places}
        for place, record in zip(places, records, strict=True):
            runs[place].append([share for _, share in record["curves"][TARGET_SHARE]])
        cpu = sum(record["cpu_seconds"] for record in records)
        return write_report(TreeRuns(runs, self.last_steps, cpu), folder)


def _rewards(target: str, shared: int, negative: float) -> list[Record]:
    return [
        {
            "function": "lgrpo_lightning.rewards.BinaryTreeReward",
            "arguments": {"target": target, "shared": shared, "negative": negative},
        },
        {"function": "lgrpo_lightning.rewards.exact_match_reward", "weight": 0},
    ]
