"""Reward functions with TRL's signature, and the runner that calls them in worker processes.

A reward function is ``f(prompts, completions, completion_ids, **columns) -> list[float | None]``,
called with keyword arguments; None means "does not apply". Only standard-library modules are
imported here, so that workers start fast.
"""

from lgrpo_lightning.rewards.answer import final_answer, normal_form
from lgrpo_lightning.rewards.binary_tree import BinaryTreeReward
from lgrpo_lightning.rewards.boxed import last_boxed
from lgrpo_lightning.rewards.completion import Completion, Prompt, completion_text
from lgrpo_lightning.rewards.extractor import ExtractorLike, extract_answers, load_extractor
from lgrpo_lightning.rewards.form import FormatReward
from lgrpo_lightning.rewards.gsm8k import gsm8k_reward
from lgrpo_lightning.rewards.length import LengthPenalty, OverlongPenalty
from lgrpo_lightning.rewards.match import boxed_match_reward, exact_match_reward
from lgrpo_lightning.rewards.math_answer import MathReward, math_reward
from lgrpo_lightning.rewards.runner import (
    OnError,
    RewardError,
    RewardLike,
    RewardRunner,
    RewardSpec,
    RewardTable,
    ScoreHandle,
)
from lgrpo_lightning.rewards.traits import reward_traits

__all__ = [
    "BinaryTreeReward",
    "Completion",
    "ExtractorLike",
    "FormatReward",
    "LengthPenalty",
    "MathReward",
    "OnError",
    "OverlongPenalty",
    "Prompt",
    "RewardError",
    "RewardLike",
    "RewardRunner",
    "RewardSpec",
    "RewardTable",
    "ScoreHandle",
    "boxed_match_reward",
    "completion_text",
    "exact_match_reward",
    "extract_answers",
    "final_answer",
    "gsm8k_reward",
    "last_boxed",
    "load_extractor",
    "math_reward",
    "normal_form",
    "reward_traits",
]
