"""Rollouts: what was sampled for a batch of prompts and all that the updates need of it."""

from lgrpo_lightning.rollout.choice import SamplerName, check_sampler, make_sampler
from lgrpo_lightning.rollout.completions import Completions
from lgrpo_lightning.rollout.huggingface import HuggingFaceSampler
from lgrpo_lightning.rollout.record import MicroBatch, Rollout
from lgrpo_lightning.rollout.sampler import Sampler
from lgrpo_lightning.rollout.seeds import derive_seed, seeded
from lgrpo_lightning.rollout.settings import SamplingSettings
from lgrpo_lightning.rollout.shared_prefix import SharedPrefixSampler
from lgrpo_lightning.rollout.token_texts import TokenTexts
from lgrpo_lightning.rollout.vllm import VLLMSampler
from lgrpo_lightning.rollout.vllm_settings import VLLMSettings

__all__ = [
    "Completions",
    "HuggingFaceSampler",
    "MicroBatch",
    "Rollout",
    "Sampler",
    "SamplerName",
    "SamplingSettings",
    "SharedPrefixSampler",
    "TokenTexts",
    "VLLMSampler",
    "VLLMSettings",
    "check_sampler",
    "derive_seed",
    "make_sampler",
    "seeded",
]
