"""What an evaluation says about its problems.

Legend: B problems, n completions of a problem.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from lgrpo_callbacks.metrics import bootstrap_interval, majority_at_k, pass_at_k
from lgrpo_callbacks.problems import Problem
from lgrpo_callbacks.tables import format_table

# A weighted sum of rewards that should be 1 may be 0.99999994 in float32.
_ROUNDING = 1e-6


class EvaluationRecord(TypedDict):
    """One evaluation: when, of what, its figures and the file with its problems."""

    step: int
    stage: str
    metrics: dict[str, float]
    file: str


class Criterion(NamedTuple):
    """When a completion counts as solved.

    Attributes:
        threshold: the reward from which it does.
        reward: of which function; None for the whole reward.
    """

    threshold: float
    reward: str | None = None

    def solved(self, problem: Problem) -> list[bool | None]:
        """Whether each of the n completions is; None where the reward did not apply."""
        whole = problem["rewards"]
        rewards = whole if self.reward is None else problem["reward_breakdown"][self.reward]
        return [None if math.isnan(r) else r >= self.threshold - _ROUNDING for r in rewards]


def evaluate_problems(
    problems: Sequence[Problem], ks: Sequence[int], criterion: Criterion, resamples: int
) -> dict[str, float]:
    """Return the figures of an evaluation; NaN for what no completion has a value for.

    Means are over completions, with those left out whose reward is NaN (no function applied).
    pass@k is over the problems with at least k rewarded completions, and so is maj@k, which is
    there only if problems have answers. What :func:`_figures` gives for all problems is also there
    for each source, as ``source/<source>/<name>``.

    Args:
        problems: all problems of all ranks.
        ks: numbers of tries of pass@k.
        criterion: when a completion counts as solved.
        resamples: bootstrap resamples of the intervals ``pass@k_low`` and ``pass@k_high``, and of
            those of maj@k.
    """
    rewards = [reward for problem in problems for reward in problem["rewards"]]
    kept = [reward for reward in rewards if not math.isnan(reward)]
    figures = _figures(problems, ks, criterion, resamples)
    figures |= {
        "reward_std": statistics.stdev(kept) if len(kept) > 1 else float("nan"),
        "unrewarded": 1 - len(kept) / len(rewards) if rewards else float("nan"),
    }
    for function in _distinct(name for problem in problems for name in problem["reward_breakdown"]):
        figures[f"reward_function/{function}"] = _mean(
            reward
            for problem in problems
            for reward in problem["reward_breakdown"].get(function, [])
        )
    for source in _distinct(problem["source"] for problem in problems):
        share = [problem for problem in problems if problem["source"] == source]
        of_source = _figures(share, ks, criterion, resamples)
        figures |= {f"source/{source}/{name}": value for name, value in of_source.items()}
    return figures


def _figures(
    problems: Sequence[Problem], ks: Sequence[int], criterion: Criterion, resamples: int
) -> dict[str, float]:
    """Number of problems, mean reward, length, truncation, pass@k and maj@k."""
    figures = {
        "problems": float(len(problems)),
        "reward": _mean(reward for problem in problems for reward in problem["rewards"]),
        "length": _mean(length for problem in problems for length in problem["lengths"]),
        "truncated": _mean(cut for problem in problems for cut in problem["truncated"]),
    }
    solved = [criterion.solved(problem) for problem in problems]
    samples = torch.tensor([len(row) - row.count(None) for row in solved], dtype=torch.long)
    correct = torch.tensor([row.count(True) for row in solved], dtype=torch.long)
    for k in ks:
        enough = samples >= k
        passed = pass_at_k(samples[enough], correct[enough], k)  # [problems with enough]
        figures |= _with_errors(f"pass@{k}", passed, resamples)
    return figures | _majorities(problems, solved, ks, resamples)


def _with_errors(name: str, values: Tensor, resamples: int) -> dict[str, float]:
    """Mean over problems, its standard error s/√B, and its bootstrap interval.

    Args:
        name: of the mean; the others have the endings ``_se``, ``_low`` and ``_high``.
        values: [B], one for each problem.
        resamples: of the interval.
    """
    enough = len(values) > 1
    error = values.double().std().item() / math.sqrt(len(values)) if enough else float("nan")
    low, high = bootstrap_interval(values, resamples)
    return {
        name: _mean(values.tolist()),
        f"{name}_se": error,
        f"{name}_low": low,
        f"{name}_high": high,
    }


def format_history(history: Sequence[EvaluationRecord], stage: str) -> str:
    """Return the first and the last evaluation of a stage side by side; empty if there is none."""
    records = [record for record in history if record["stage"] == stage]
    if not records:
        return ""
    shown = records[:1] if len(records) == 1 else [records[0], records[-1]]
    names = list(shown[-1]["metrics"])
    if sum(name.endswith("/problems") for name in names) == 2:  # the only source is the whole
        names = [name for name in names if "/source/" not in name]
    header = [stage, *(f"step {record['step']}" for record in shown)]
    rows = [
        [name, *(f"{record['metrics'].get(name, float('nan')):.4f}" for record in shown)]
        for name in names
    ]
    return format_table(header, rows)


def _majorities(
    problems: Sequence[Problem],
    solved: Sequence[Sequence[bool | None]],
    ks: Sequence[int],
    resamples: int,
) -> dict[str, float]:
    votes = [
        [
            (answer, good)
            for answer, good in zip(problem["answers"], of_problem, strict=True)
            if good is not None
        ]
        for problem, of_problem in zip(problems, solved, strict=True)
        if "answers" in problem
    ]
    figures: dict[str, float] = {}
    for k in (k for k in ks if votes and k > 1):  # a vote of one is no vote
        won = [
            majority_at_k([answer for answer, _ in vote], [good for _, good in vote], k)
            for vote in votes
            if len(vote) >= k
        ]
        figures |= _with_errors(f"maj@{k}", torch.tensor(won), resamples)
    return figures


def _mean(values: Iterable[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return math.fsum(kept) / len(kept) if kept else float("nan")


def _distinct(names: Iterable[str]) -> list[str]:
    """Return names without repetition, sorted: their order must not depend on the ranks'."""
    return sorted(set(names))
