"""95 % intervals, of means by Student's t, of shares by Wilson's score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval.

    Attributes:
        value: the mean or share.
        low: lower end; NaN where one value alone tells nothing of the spread.
        high: upper end.
    """

    value: float
    low: float
    high: float

    def within(self, lowest: float, highest: float) -> "Estimate":
        """The interval without what a mean of bounded values cannot be; it covers as often."""
        return Estimate(self.value, max(lowest, self.low), min(highest, self.high))

    def text(self, digits: int = 2, sign: bool = False) -> str:
        """For tables: ``0.79 [0.70, 0.88]``."""
        flag = "+" if sign else ""
        value, low, high = (
            f"{number:{flag}.{digits}f}" for number in (self.value, self.low, self.high)
        )
        return f"{value} [{low}, {high}]"


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Mean ± t · s/√n, with Student's t for n - 1 degrees of freedom.

    Args:
        values: n independent values, n ≥ 1.
    """
    mean = fmean(values)
    if len(values) < 2:
        return Estimate(mean, math.nan, math.nan)
    reach = student_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - reach, mean + reach)


def share_estimate(successes: int, trials: int) -> Estimate:
    """Share of successes with Wilson's score interval (JASA 22, 1927).

    Args:
        successes: at most ``trials``.
        trials: at least 1.
    """
    share = successes / trials
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    centre = share + z * z / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    # Rounding must not push the ends past a share of 0 or 1.
    low, high = min(share, (centre - reach) / scale), max(share, (centre + reach) / scale)
    return Estimate(share, max(0.0, low), min(1.0, high))


def student_quantile(freedom: int) -> float:
    """The t with P(|T| ≤ t) = 0.95 for so many degrees of freedom, to 1e-6.

    With T = √ν · tan(θ) the probability is the integral of cos(θ)^(ν-1) up to arctan(t/√ν), divided
    by that up to π/2; both have no tails to cut off.
    """
    whole = _integral(freedom - 1, math.pi / 2)
    low, high = 0.0, math.pi / 2
    while high - low > 1e-9:
        middle = (low + high) / 2
        if _integral(freedom - 1, middle) < CONFIDENCE * whole:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _integral(power: int, end: float, pieces: int = 400) -> float:
    """∫ cos(θ)^power from 0 to ``end``, by Simpson's rule."""
    width = end / pieces
    weights = (1 if k in (0, pieces) else 2 + 2 * (k % 2) for k in range(pieces + 1))
    return width / 3 * sum(w * math.cos(k * width) ** power for k, w in enumerate(weights))
