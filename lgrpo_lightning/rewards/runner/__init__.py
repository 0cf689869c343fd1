"""Run reward functions in worker processes, under a hard time limit."""

from lgrpo_lightning.rewards.runner.errors import RewardError
from lgrpo_lightning.rewards.runner.handle import OnError, ScoreHandle
from lgrpo_lightning.rewards.runner.runner import RewardRunner
from lgrpo_lightning.rewards.runner.spec import RewardLike, RewardSpec
from lgrpo_lightning.rewards.runner.table import RewardTable

__all__ = [
    "OnError",
    "RewardError",
    "RewardLike",
    "RewardRunner",
    "RewardSpec",
    "RewardTable",
    "ScoreHandle",
]
