"""The λ-GRPO objective: advantages, denominators, surrogates, KL estimators and their sum."""

from lgrpo_lightning.objective.advantages import group_advantages
from lgrpo_lightning.objective.denominators import row_denominators
from lgrpo_lightning.objective.kl import kl_estimate
from lgrpo_lightning.objective.loss import LambdaGRPOLoss, LossInputs, LossOutputs

__all__ = [
    "LambdaGRPOLoss",
    "LossInputs",
    "LossOutputs",
    "group_advantages",
    "kl_estimate",
    "row_denominators",
]
