"""The proportional controller of the KL coefficient."""

from dataclasses import dataclass

from lightning.pytorch import LightningModule

# The error is bounded, so that one odd step moves the coefficient by a bounded factor.
_MAX_ERROR = 0.2
_MIN_FACTOR = 0.5


@dataclass(frozen=True)
class KLController:
    """Keeps the KL divergence near a target by scaling its coefficient.

        e = clip(KL/target − 1, −0.2, 0.2),   β ← β · (1 + e · n/horizon)

    for n completions since the last change; the factor is never below one half, which differs from
    the paper only where n is more than 2.5 horizons. Source: Ziegler et al., "Fine-Tuning Language
    Models from Human Preferences", arXiv 1909.08593, section 2.2.

    Args:
        target: wanted divergence, in nats per token.
        horizon: completions after which a lasting error of 0.2 has changed β by about a fifth.

    Raises:
        ValueError: if target or horizon is not positive.
    """

    target: float
    horizon: int

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not self.target > 0:
            raise ValueError(
                f"target must be positive (nats per token), got {self.target}; "
                f"leave it out for a fixed coefficient"
            )
        if not self.horizon > 0:
            raise ValueError(f"horizon must be 1 completion or more, got {self.horizon}")

    def next_coefficient(self, coefficient: float, kl: float, completions: float) -> float:
        """Return the coefficient after ``completions`` completions with divergence ``kl``."""
        error = min(max(kl / self.target - 1, -_MAX_ERROR), _MAX_ERROR)
        return coefficient * max(1 + error * completions / self.horizon, _MIN_FACTOR)


def set_kl_coef(pl_module: LightningModule, value: float) -> None:
    """Write ``pl_module.loss.kl_coef``."""
    pl_module.loss.kl_coef = value  # type: ignore[union-attr]


def positive_kl_coef(pl_module: LightningModule) -> float:
    """Return ``pl_module.loss.kl_coef``.

    Raises:
        ValueError: if there is none, or if it is 0, which scaling can't change.
    """
    try:
        coefficient = float(pl_module.loss.kl_coef)  # type: ignore[union-attr, arg-type]
    except AttributeError as error:
        raise ValueError(
            f"KLTracker(target=…) steers pl_module.loss.kl_coef, which {type(pl_module).__name__} "
            f"does not have; add it or leave out target"
        ) from error
    if not coefficient > 0:
        raise ValueError(
            f"KLTracker(target=…) scales the KL coefficient, which must start above 0, got "
            f"{coefficient}; set kl_coef or leave out target"
        )
    return coefficient
