"""maj@k: the chance that the answer most of k sampled completions agree on is correct.

Legend: B problems, n completions of a problem.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from torch import Tensor

from lgrpo_callbacks.metrics.mean_over_problems import MeanOverProblems


def majority_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """Return maj@k of one problem, exactly.

        maj@k = Σ over the C(n, k) draws of k completions without replacement
                of the correctness of their most frequent answer, divided by C(n, k)

    Of answers that are equally frequent, one is picked at random. A completion without an answer
    has no vote; where none has one, the vote is lost. The correctness of an answer is the share of
    its completions that are correct, 0 or 1 where the reward depends on the answer alone. For k = n
    this is self-consistency (Wang et al., arXiv 2203.11171).

    The draws are counted by how often each answer occurs in them, for one after another of the
    highest numbers of votes; time and memory grow with n·k², not with C(n, k).

    Args:
        answers: n answers; completions agree where these are equal. None for no answer.
        correct: n, whether each completion is correct.
        k: completions that vote.

    Returns:
        Between 0 and 1.

    Raises:
        ValueError: if k is not between 1 and n, or the lengths differ.

    Example::

        >>> majority_at_k(["4", "4", "5", None], [True, True, False, False], k=3)
        0.75
    """
    if len(answers) != len(correct):
        raise ValueError(
            f"answers and correct must have one entry per completion, got {len(answers)} and "
            f"{len(correct)}"
        )
    if not 1 <= k <= len(answers):
        raise ValueError(
            f"maj@{k} needs between 1 and all {len(answers)} completions of a problem; sample more "
            "or lower k"
        )
    counts = Counter(answer for answer in answers if answer is not None)
    right = Counter(answer for answer, good in zip(answers, correct, strict=True) if good)
    # In units of 1/unit, every answer's correctness is a whole number, and so is all that follows.
    unit = math.lcm(*counts.values())
    votes = [(count, right[answer] * unit // count) for answer, count in counts.items()]
    silent = len(answers) - counts.total()
    won = sum(_won_with(most, votes, silent, k) for most in range(1, k + 1))
    return float(won / (unit * math.comb(len(answers), k)))


class MajorityAtK(MeanOverProblems):
    """Mean of maj@k over problems, see :func:`majority_at_k`.

    Args:
        k: completions that vote.
        **kwargs: arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: if k is below 1 or a problem has fewer than k completions.

    Example::

        >>> import torch
        >>> metric = MajorityAtK(k=3)
        >>> metric.update([["4", "4", "5", None]], torch.tensor([[True, True, False, False]]))
        >>> metric.compute()
        tensor(0.7500)
    """

    def __init__(self, k: int, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(k, "maj@k", **kwargs)

    def update(self, answers: Sequence[Sequence[str | None]], correct: Tensor) -> None:
        """Count problems.

        Args:
            answers: B lists of n answers; None for no answer.
            correct: [B, n] bool, which completions of each problem are correct.
        """
        rows = zip(answers, correct.tolist(), strict=True)
        self.total += sum(majority_at_k(texts, good, self.k) for texts, good in rows)
        self.problems += len(answers)


def _won_with(most: int, votes: Sequence[tuple[int, int]], silent: int, k: int) -> Fraction:
    """Return the number of draws in which the winner has ``most`` votes, times its correctness."""
    # (votes so far, answers with `most` of them) → draws, draws × Σ of those answers' correctness
    draws = {(0, 0): (1, 0)}
    for count, value in votes:
        following: dict[tuple[int, int], tuple[int, int]] = defaultdict(lambda: (0, 0))
        for (cast, tied), (number, worth) in draws.items():
            for times in range(min(count, most, k - cast) + 1):
                ways, wins = math.comb(count, times), times == most
                before = following[cast + times, tied + wins]
                following[cast + times, tied + wins] = (
                    before[0] + ways * number,
                    before[1] + ways * (worth + number * value * wins),
                )
        draws = following
    return sum(
        (
            Fraction(worth * math.comb(silent, k - cast), tied)
            for (cast, tied), (_, worth) in draws.items()
            if tied
        ),
        Fraction(0),
    )
