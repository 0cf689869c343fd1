"""Estimators of KL(π_θ ‖ π_ref) from the log-probs of sampled tokens.

With r = π_ref(y_t) / π_θ(y_t) (Schulman, "Approximating KL Divergence", 2020):

    k1 = -ln r        k2 = (ln r)² / 2        k3 = r - ln r - 1
"""

from typing import Literal, get_args

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: KLEstimator = "k3") -> Tensor:
    """Per-token estimate of KL(π_θ ‖ π_ref) in nats.

    Args:
        logprobs: log π_θ of the sampled tokens, any shape.
        ref_logprobs: log π_ref of the same tokens, same shape.
        estimator: ``"k1"`` (unbiased, of either sign), ``"k2"`` (small variance, biased) or
            ``"k3"`` (unbiased and never negative; the one of GRPO and λ-GRPO).

    Raises:
        ValueError: if the estimator is unknown.
    """
    log_r = ref_logprobs - logprobs
    match estimator:
        case "k1":
            return -log_r
        case "k2":
            return log_r.square() / 2
        case "k3":
            return torch.expm1(log_r) - log_r
        case _:
            raise ValueError(
                f"kl_estimator must be one of {get_args(KLEstimator)}, got {estimator!r}"
            )
