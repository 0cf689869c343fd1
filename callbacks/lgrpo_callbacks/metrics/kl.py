"""Estimates of a KL divergence from sampled tokens.

Legend: M completions of a micro-batch, T completion tokens.
"""

import torch
from torch import Tensor

# Beyond this ratio e^30 the exponential alone decides k3, and expm1 would overflow later on.
_LARGE_LOG_RATIO = 30.0


def kl_estimates(
    logprobs: Tensor, other_logprobs: Tensor, sampler_logprobs: Tensor
) -> list[Tensor]:
    """Estimate KL(policy‖other) per token by k1, k2 and k3, for tokens of another sampler.

        k1 = w·ρ,   k2 = w·ρ²/2,   k3 = w·(e^(−ρ) − 1 + ρ),
        ρ = ln π_θ − ln π_other,   w = π_θ/π_sampler.

    k1 and k3 are unbiased, k2 is not; k2 and k3 are never negative (Schulman, "Approximating KL
    Divergence", 2020). The estimators need tokens of the policy; the weight w corrects for tokens
    that the sampler drew before the policy moved on (DeepSeek-V3.2, arXiv 2512.02556, does so for
    k3). On-policy w is 1.

    Args:
        logprobs: [M, T], log π_θ of the sampled tokens.
        other_logprobs: [M, T], log π_other, of the reference or of the sampler itself.
        sampler_logprobs: [M, T], log π_sampler, of the policy that drew the tokens.

    Returns:
        k1, k2 and k3, each [M, T], in nats.
    """
    log_ratio = logprobs - other_logprobs
    log_weight = logprobs - sampler_logprobs
    weight = log_weight.exp()
    # expm1 keeps the digits of a small divergence; where the ratio is tiny, weight and exponential
    # are joined before they can become 0 · infinity.
    k3 = torch.where(
        log_ratio > -_LARGE_LOG_RATIO,
        weight * (torch.expm1(-log_ratio) + log_ratio),
        (log_weight - log_ratio).exp() - weight * (1 - log_ratio),
    )
    return [weight * log_ratio, weight * log_ratio.square() / 2, k3]
