"""pass@k: the chance that at least one of k sampled completions is correct.

Legend: B problems, n completions of a problem.
"""

from typing import Any

import torch
from torch import Tensor

from lgrpo_callbacks.metrics.mean_over_problems import MeanOverProblems


def pass_at_k(num_samples: Tensor, num_correct: Tensor, k: int) -> Tensor:
    """Return the unbiased pass@k of every problem.

        pass@k = 1 − C(n−c, k) / C(n, k) = 1 − Π_{j<k} (n−c−j) / (n−j)

    The product has k factors between 0 and 1, so it neither overflows nor cancels. Source: Chen et
    al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374, eq. 1.

    Args:
        num_samples: [B] integers, n, completions of each problem.
        num_correct: [B] integers, c, how many of them are correct.
        k: number of tries.

    Returns:
        [B], between 0 and 1; float64, or float32 on devices without it.

    Raises:
        ValueError: if k is below 1, n below k, or c not between 0 and n.

    Example::

        >>> pass_at_k(torch.tensor([4, 4]), torch.tensor([1, 3]), k=2)
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    if k < 1:
        raise ValueError(f"k of pass@k must be 1 or more, got {k}")
    if (num_samples < k).any():
        raise ValueError(
            f"pass@{k} needs at least {k} completions of every problem, got "
            f"{int(num_samples.min())}; sample more or lower k"
        )
    if ((num_correct < 0) | (num_correct > num_samples)).any():
        raise ValueError("the number of correct completions must be between 0 and their number")
    dtype = torch.float32 if num_samples.device.type == "mps" else torch.float64
    tries = torch.arange(k, device=num_samples.device)  # [k]
    remaining = (num_samples[:, None] - tries).to(dtype)  # [B, k]
    wrong = (remaining - num_correct[:, None]).clamp(min=0)  # [B, k]
    return 1 - (wrong / remaining).prod(dim=1)


class PassAtK(MeanOverProblems):
    """Mean of the unbiased pass@k over problems, see :func:`pass_at_k`.

    Args:
        k: number of tries.
        **kwargs: arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: if k is below 1 or a problem has fewer than k completions.

    Example::

        >>> metric = PassAtK(k=2)
        >>> metric.update(torch.tensor([[True, False, False, False], [True, True, True, False]]))
        >>> metric.compute()
        tensor(0.7500)
    """

    def __init__(self, k: int = 1, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(k, "pass@k", **kwargs)

    def update(self, correct: Tensor) -> None:
        """Count problems.

        Args:
            correct: [B, n] bool, which completions of each problem are correct.
        """
        if correct.dim() != 2:
            raise ValueError(f"correct must be [problems, completions], got {list(correct.shape)}")
        num_samples = torch.full(correct.shape[:1], correct.shape[1], device=correct.device)
        self.total += pass_at_k(num_samples, correct.long().sum(dim=1), self.k).sum().float()
        self.problems += len(correct)
