"""The λ-GRPO loss.

    L = Σ_i 1/d_i · Σ_t 1/|λ(i,t)| · [ w_{i,t} · ℓ_{i,t} + β · KL_{i,t} ]

with ℓ = -P·a for on-policy samples and w = 1; with d_i = N this is minus Eq. 9 of Sullivan &
Koller, arXiv 2509.21154. Without the factor 1/|λ| it is GRPO, DAPO or Dr. GRPO, depending on d_i.

Legend: M completions of a micro-batch, T completion tokens.
"""

from dataclasses import dataclass, field, fields
from typing import get_args

import torch
from torch import Tensor

from lgrpo_lightning.objective.kl import KLEstimator, kl_estimate
from lgrpo_lightning.objective.surrogates import Surrogate, cispo_loss, ppo_loss, sequence_ratio


@dataclass(frozen=True, eq=False)
class LossInputs:
    """What the loss needs to know of a micro-batch.

    Attributes:
        logprobs: [M, T], log π_θ of the sampled tokens, with gradient.
        old_logprobs: [M, T], log π_old, of the policy that sampled.
        ref_logprobs: [M, T], log π_ref, or None if there is no KL term.
        advantages: [M].
        mask: [M, T] bool, the tokens that carry loss.
        set_sizes: [M, T] long, |λ(i,t)| in the whole group, also where the micro-batch cuts it.
        denominators: [M], d_i, see :func:`~lgrpo_lightning.objective.row_denominators`.
        importance_weights: [M, T], w, for samples of another distribution than π_old; None for 1.
            The KL term is left as it is, as TRL leaves it.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor | None
    advantages: Tensor
    mask: Tensor
    set_sizes: Tensor
    denominators: Tensor
    importance_weights: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse shapes that would broadcast into a wrong loss."""
        if self.logprobs.dim() != 2:
            raise ValueError(f"logprobs must be [M, T], got {list(self.logprobs.shape)}")
        rows = self.logprobs.shape[:1]
        per_row = ("advantages", "denominators")
        for name in (item.name for item in fields(self)):
            value = getattr(self, name)
            expected = rows if name in per_row else self.logprobs.shape
            if value is not None and value.shape != expected:
                raise ValueError(f"{name} must be {list(expected)}, got {list(value.shape)}")


@dataclass(frozen=True, eq=False)
class LossOutputs:
    """The loss of a micro-batch and what it is worth looking at.

    Attributes:
        loss: scalar with gradient, Σ_i (…)/d_i over the rows given. Summed over the micro-batches
            of a rollout it is the rollout's loss.
        metrics: detached scalars, all of them sums over tokens, to be divided by ``tokens`` after
            summing over micro-batches and processes: ``tokens``, ``clipped_low``, ``clipped_high``
            (tokens whose gradient the clipping removed or bounded), ``ratio``, ``weight`` (Σ 1/|λ|)
            and, with a KL term, ``kl``.
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class LambdaGRPOLoss:
    """λ-GRPO, and with one switch plain GRPO, for three surrogates.

    Args:
        process_set_scaling: divide each token's loss, policy and KL term alike, by the size of
            its process set (λ-GRPO); False for plain GRPO.
        surrogate: ``"ppo"`` (clipped ratio), ``"cispo"`` (clipped weight) or ``"gspo"`` (ratio of
            the whole completion).
        clip_low: lower clip range of the ratio; unused by ``"cispo"``.
        clip_high: upper clip range of the ratio; None for ``clip_low``.
        dual_clip: bound c > 1 + clip_high on the ratio where the advantage is negative; None for
            no bound.
        kl_coef: β ≥ 0; 0 for no KL term.
        kl_estimator: ``"k1"``, ``"k2"`` or ``"k3"``, see
            :func:`~lgrpo_lightning.objective.kl_estimate`.

    Raises:
        ValueError: if an argument is out of range.
    """

    process_set_scaling: bool = True
    surrogate: Surrogate = "ppo"
    clip_low: float = 0.2
    clip_high: float | None = None
    dual_clip: float | None = None
    kl_coef: float = 0.0
    kl_estimator: KLEstimator = "k3"

    def __post_init__(self) -> None:
        """Check the arguments, before anything expensive depends on them."""
        for name, value, known in (
            ("surrogate", self.surrogate, get_args(Surrogate)),
            ("kl_estimator", self.kl_estimator, get_args(KLEstimator)),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got {value!r}")
        if not 0 <= self.clip_low <= 1:
            raise ValueError(f"clip_low must be between 0 and 1, got {self.clip_low}")
        if not self.upper_clip >= 0:
            raise ValueError(f"clip_high must be 0 or more, got {self.clip_high}")
        if self.dual_clip is not None and not self.dual_clip > 1 + self.upper_clip:
            raise ValueError(
                f"dual_clip bounds the ratio itself and must be above 1 + clip_high = "
                f"{1 + self.upper_clip}, got {self.dual_clip}"
            )
        if self.dual_clip is not None and self.surrogate == "cispo":
            raise ValueError("dual_clip has no meaning for surrogate 'cispo'; leave it out")
        if not self.kl_coef >= 0:
            raise ValueError(f"kl_coef must be 0 or more, got {self.kl_coef}")

    @property
    def upper_clip(self) -> float:
        """The upper clip range in force."""
        return self.clip_low if self.clip_high is None else self.clip_high

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """The loss of the rows given.

        Raises:
            ValueError: if there is a KL term but no reference log-probs.
        """
        if self.kl_coef and inputs.ref_logprobs is None:
            raise ValueError(
                f"kl_coef is {self.kl_coef}, so the loss needs ref_logprobs; got None. "
                "Pass them, or set kl_coef to 0"
            )
        mask = inputs.mask
        # Padding may hold anything, also infinities; where() keeps them out of value and gradient.
        logprobs = torch.where(mask, inputs.logprobs, 0.0)
        log_ratio = logprobs - torch.where(mask, inputs.old_logprobs, 0.0)
        advantages = inputs.advantages.to(logprobs.dtype).unsqueeze(-1)  # [M, 1]

        if self.surrogate == "gspo":
            ratio = sequence_ratio(log_ratio, mask, logprobs)
        else:
            ratio = log_ratio.exp()
        if self.surrogate == "cispo":
            token_loss = cispo_loss(ratio, advantages, logprobs, self.upper_clip)
        else:
            token_loss = ppo_loss(ratio, advantages, self.clip_low, self.upper_clip, self.dual_clip)

        if inputs.importance_weights is not None:
            token_loss = token_loss * torch.where(mask, inputs.importance_weights.detach(), 0.0)

        metrics = self._metrics(ratio, advantages, mask)
        if self.kl_coef and inputs.ref_logprobs is not None:
            ref_logprobs = torch.where(mask, inputs.ref_logprobs, 0.0)
            kl = kl_estimate(logprobs, ref_logprobs, self.kl_estimator)
            token_loss = token_loss + self.kl_coef * kl
            metrics["kl"] = kl.detach().sum()  # 0 at padding

        weights = torch.where(mask, 1 / inputs.set_sizes.clamp(min=1).to(logprobs.dtype), 0.0)
        metrics["weight"] = weights.sum()
        if not self.process_set_scaling:
            weights = mask.to(logprobs.dtype)
        row_loss = (weights * token_loss).sum(-1)
        loss = (row_loss / inputs.denominators.to(row_loss.dtype)).sum()
        return LossOutputs(loss, metrics)

    def _metrics(self, ratio: Tensor, advantages: Tensor, mask: Tensor) -> dict[str, Tensor]:
        ratio = ratio.detach()
        too_high = (ratio > 1 + self.upper_clip) & mask
        if self.surrogate == "cispo":  # the weight is bounded whatever the sign
            too_low = torch.zeros_like(mask)
        else:
            too_high = too_high & (advantages > 0)
            if self.dual_clip is not None:
                too_high = too_high | ((ratio > self.dual_clip) & (advantages < 0) & mask)
            too_low = (ratio < 1 - self.clip_low) & (advantages < 0) & mask
        return {
            "tokens": mask.sum(),
            "clipped_low": too_low.sum(),
            "clipped_high": too_high.sum(),
            "ratio": (ratio * mask).sum(),
        }
