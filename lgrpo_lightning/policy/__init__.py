"""The policy: loading it and its tokenizer, its reference, and log-probs of completions."""

from lgrpo_lightning.policy.loading import LoRASettings, PolicySettings, load_policy, load_tokenizer
from lgrpo_lightning.policy.logprobs import Engine, completion_logprobs, row_logprobs
from lgrpo_lightning.policy.reference import Reference, make_reference

__all__ = [
    "Engine",
    "LoRASettings",
    "PolicySettings",
    "Reference",
    "completion_logprobs",
    "load_policy",
    "load_tokenizer",
    "make_reference",
    "row_logprobs",
]
