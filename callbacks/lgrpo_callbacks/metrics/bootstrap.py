"""Bootstrap intervals of a mean.

Legend: B problems.
"""

import torch
from torch import Tensor


def bootstrap_interval(
    values: Tensor, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return a percentile bootstrap interval of the mean.

    B values are drawn with replacement ``resamples`` times; the interval spans the middle
    ``confidence`` of the means (Efron & Tibshirani, "An Introduction to the Bootstrap", ch. 13).
    It describes the choice of problems, not the sampling of completions. The draw has a generator
    of its own: the same values in any order give the same interval, and the training's random
    numbers stay as they are.

    Args:
        values: [B], one value per problem.
        resamples: number of resamples.
        confidence: coverage, between 0 and 1.
        seed: seed of the draw.

    Returns:
        Lower and upper end; NaN and NaN if there are no values.

    Raises:
        ValueError: if ``resamples`` is below 1 or ``confidence`` not between 0 and 1.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be 1 or more, got {resamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    if values.numel() == 0:
        return float("nan"), float("nan")
    values = values.cpu().double().sort().values
    generator = torch.Generator().manual_seed(seed)
    # One resample at a time: a table of resamples × problems would be large for large sets.
    means = torch.stack(
        [
            values[torch.randint(len(values), values.shape, generator=generator)].mean()
            for _ in range(resamples)
        ]
    )
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=means.dtype)
    low, high = means.quantile(tails).tolist()
    return low, high
