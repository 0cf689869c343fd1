"""How far the sampler's distribution is from the policy's, and the correction for it.

With Δ_t = log π_old(y_t) − log π_sampler(y_t) of a sampled token:

    w_t = min(exp(Δ_t), c)                       truncated importance sampling
    KL(π_sampler ‖ π_old) ≈ exp(Δ_t) − Δ_t − 1   (k3)

Source: Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025.
"""

import torch
from torch import Tensor

from lgrpo_lightning.objective import kl_estimate


def importance_weights(
    old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, cap: float
) -> Tensor:
    """The factor of each token's policy term, in (0, cap]; 1 off the mask.

    Args:
        old_logprobs: [M, T], by the model that is trained, before the update.
        sampler_logprobs: [M, T], by the sampler.
        mask: [M, T] bool, the tokens that carry loss.
        cap: c, the largest factor.
    """
    gap = torch.where(mask, old_logprobs - sampler_logprobs, 0.0)
    return torch.where(mask, gap.exp().clamp(max=cap), 1.0)


def mismatch(
    old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, cap: float | None
) -> dict[str, Tensor]:
    """What is worth logging, as sums over tokens.

    - ``sampler_gap``: |Δ|,
    - ``sampler_kl``: the estimate of KL(π_sampler ‖ π_old), nats,
    - ``importance_capped``: tokens whose factor the cap cut; only with a cap.

    Args:
        old_logprobs: [M, T].
        sampler_logprobs: [M, T].
        mask: [M, T] bool.
        cap: as in :func:`importance_weights`; None without correction.
    """
    gap = torch.where(mask, old_logprobs - sampler_logprobs, 0.0)
    figures = {
        "sampler_gap": gap.abs().sum(),
        "sampler_kl": kl_estimate(torch.zeros_like(gap), gap).sum(),
    }
    if cap is not None:
        figures["importance_capped"] = (gap.exp() > cap).logical_and(mask).sum()
    return figures
