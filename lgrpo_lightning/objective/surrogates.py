"""Policy-gradient surrogates: the loss of one token before λ, KL and denominators.

All three have the gradient -a_i · ∇ log π(y_t) at ratio 1. M completions, T completion tokens.
"""

from typing import Literal

import torch
from torch import Tensor

Surrogate = Literal["ppo", "cispo", "gspo"]


def ppo_loss(
    ratio: Tensor, advantages: Tensor, low: float, high: float, dual_clip: float | None
) -> Tensor:
    """Clipped surrogate, -min(ρ·a, clip(ρ, 1-low, 1+high)·a)  (PPO, arXiv 1707.06347 Eq. 7).

    With ``dual_clip`` = c the loss of a token with a < 0 is at most c·|a| (arXiv 1912.09729 Eq. 5).

    Args:
        ratio: [M, T], ρ = π_θ / π_old.
        advantages: [M, 1].
        low: lower clip range.
        high: upper clip range.
        dual_clip: c, above 1 + high; None for no bound.

    Returns:
        [M, T].
    """
    unclipped = ratio if dual_clip is None else ratio.clamp(max=dual_clip)
    clipped = ratio.clamp(1 - low, 1 + high)
    return -torch.minimum(unclipped * advantages, clipped * advantages)


def cispo_loss(ratio: Tensor, advantages: Tensor, logprobs: Tensor, high: float) -> Tensor:
    """-sg(min(ρ, 1+high)) · a · log π_θ: clips the weight, not the gradient.

    CISPO, arXiv 2506.13585 Eq. 4; as in the paper there is no lower bound.

    Args:
        ratio: [M, T].
        advantages: [M, 1].
        logprobs: [M, T], log π_θ.
        high: upper clip range.

    Returns:
        [M, T].
    """
    return -ratio.clamp(max=1 + high).detach() * advantages * logprobs


def sequence_ratio(log_ratio: Tensor, mask: Tensor, logprobs: Tensor) -> Tensor:
    """GSPO's ratio of a whole completion, spread over its tokens (arXiv 2507.18071 Eq. 14).

        s_i = exp(1/len(i) · Σ_t log ρ_{i,t})        s_{i,t} = sg(s_i) · π_θ / sg(π_θ)

    Every token has the value s_i; the token form makes the gradient of each token its own, so that
    token weights such as 1/|λ| act on it. Unweighted, value and gradient are those of s_i.

    Args:
        log_ratio: [M, T], log ρ.
        mask: [M, T] bool.
        logprobs: [M, T], log π_θ.

    Returns:
        [M, T].
    """
    mean = (log_ratio * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return torch.exp(mean.detach() + logprobs - logprobs.detach())
