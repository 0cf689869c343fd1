"""Group-relative advantages.

a_i = (r_i - mean(r)) / (std(r) + ε)        (Shao et al., DeepSeekMath, arXiv 2402.03300)
"""

from typing import Literal, get_args

import torch
from torch import Tensor

AdvantageScale = Literal["group", "batch", "none"]


def group_advantages(
    rewards: Tensor, scale: AdvantageScale = "group", epsilon: float = 1e-4
) -> Tensor:
    """Rewards relative to their group's mean, in units of a standard deviation.

        a_i = (r_i - mean(r)) / (std(r) + ε)

    The standard deviation is the sample one (ddof = 1). A NaN reward means that no reward function
    applied to this completion: it is left out of mean and deviation and gets advantage 0.

    Args:
        rewards: [B, G] float.
        scale: what to divide by: ``"group"``, the group's own deviation (GRPO); ``"batch"``, the
            deviation of all rewards in ``rewards`` (arXiv 2508.08221); ``"none"``, nothing
            (Dr. GRPO, arXiv 2503.20783).
        epsilon: ε, added to the deviation.

    Returns:
        [B, G] in the dtype of ``rewards``. Groups of equal rewards get exactly 0.

    Raises:
        ValueError: if ``rewards`` is not [B, G] or the scale is unknown.
    """
    if rewards.dim() != 2:
        raise ValueError(f"rewards must be [B, G], got {list(rewards.shape)}")
    if scale not in get_args(AdvantageScale):
        raise ValueError(f"scale must be one of {get_args(AdvantageScale)}, got {scale!r}")
    known = ~rewards.isnan()
    centred = torch.where(known, rewards - rewards.nanmean(dim=1, keepdim=True), 0.0)
    # Rounding in the mean must not turn equal rewards into tiny advantages.
    highest = rewards.masked_fill(~known, -torch.inf).amax(dim=1, keepdim=True)
    lowest = rewards.masked_fill(~known, torch.inf).amin(dim=1, keepdim=True)
    centred = centred.masked_fill(highest <= lowest, 0.0)
    if scale == "none":
        return centred
    if scale == "group":
        freedom = (known.sum(dim=1, keepdim=True) - 1).clamp(min=1)
        deviation = (centred.square().sum(dim=1, keepdim=True) / freedom).sqrt()
    else:
        values = rewards[known]
        deviation = values.std() if values.numel() > 1 else values.new_zeros(())
    return centred / (deviation + epsilon)
