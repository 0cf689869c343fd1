"""Runners over the sample reward functions."""

from pathlib import Path

import pytest

from lgrpo_lightning.rewards import RewardRunner, RewardSpec

SAMPLES = Path(__file__).with_name("sample_rewards.py")


@pytest.fixture
def sample():
    """Path of a sample reward function, by its name."""
    return lambda name: f"{SAMPLES}:{name}"


@pytest.fixture
def make_runner(sample):
    """Make runners of sample functions (by name) or other rewards; closed after the test."""
    runners = []

    def make(*rewards, time_limit=20.0, **options):
        paths = [
            sample(reward) if isinstance(reward, str) and "." not in reward else reward
            for reward in rewards
        ]
        runners.append(RewardRunner(paths, time_limit=time_limit, **options))
        return runners[-1]

    yield make
    for runner in runners:
        runner.close()


@pytest.fixture
def score():
    """Score completions that have no prompts to speak of."""

    def call(runner, completions, **columns):
        count = len(completions)
        return runner.score(["?"] * count, completions, [[1, 2]] * count, columns)

    return call


@pytest.fixture
def spec(sample):
    """A spec of a sample class or function."""
    return lambda reward, **options: RewardSpec(sample(reward), **options)
