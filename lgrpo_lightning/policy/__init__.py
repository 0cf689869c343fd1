"""The policy: loading it and its tokenizer, its reference, and log-probs of completions."""

from lgrpo_lightning.policy.loading import load_policy, load_tokenizer
from lgrpo_lightning.policy.logprobs import completion_logprobs, row_logprobs, row_scores
from lgrpo_lightning.policy.reference import Reference, make_reference
from lgrpo_lightning.policy.scores import TokenScores
from lgrpo_lightning.policy.settings import LoRASettings, PolicySettings
from lgrpo_lightning.policy.support import Engine, resolve_engine

__all__ = [
    "Engine",
    "LoRASettings",
    "PolicySettings",
    "Reference",
    "TokenScores",
    "completion_logprobs",
    "load_policy",
    "load_tokenizer",
    "make_reference",
    "resolve_engine",
    "row_logprobs",
    "row_scores",
]
