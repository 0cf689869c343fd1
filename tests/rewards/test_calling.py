"""What a reward function may return."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lgrpo_lightning.rewards.runner.calling import Caller, InvalidRewardsError, as_rewards
from lgrpo_lightning.rewards.runner.messages import Failure


@pytest.mark.parametrize(
    "result",
    [
        [1, 0],
        [1.0, 0.0],
        (True, False),
        [np.float32(1), np.int64(0)],
        [np.bool_(True), np.bool_(False)],
        np.array([1.0, 0.0]),
        torch.tensor([1.0, 0.0]),
        [torch.tensor(1), torch.tensor([0.0])],
    ],
)
def test_numbers_of_all_kinds_become_floats(result):
    rewards = as_rewards(result, 2)
    assert rewards == [1.0, 0.0]
    assert [type(reward) for reward in rewards] == [float, float]


@given(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False)))
def test_floats_and_nones_stay_as_they_are(result):
    assert as_rewards(result, len(result)) == result


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "returned None"),
        (1.0, "returned 1.0"),
        ("ab", "returned 'ab'"),
        (b"ab", "returned b'ab'"),
        ({0: 1.0, 1: 2.0}, "dict"),
        ({1.0, 2.0}, "set"),
        ((x for x in [1.0, 2.0]), "generator"),
        ([1.0], "1 rewards for 2 completions"),
        ([1.0, 2.0, 3.0], "3 rewards for 2 completions"),
        ([1.0, "2"], "reward 1 is '2'"),
        ([[1.0], 2.0], r"reward 0 is \[1.0\]"),
        ([1.0, 1j], "reward 1 is 1j"),
        ([np.array([1.0, 2.0]), 1.0], "reward 0 is array"),
        (torch.zeros(2, 2), "reward 0 is tensor"),
        ([1.0, math.nan], "reward 1 is nan"),
        ([math.inf, 1.0], "reward 0 is inf"),
    ],
)
def test_anything_else_is_refused(result, message):
    with pytest.raises(InvalidRewardsError, match=message):
        as_rewards(result, 2)


def test_scalar_where_one_reward_is_due_is_refused():
    with pytest.raises(InvalidRewardsError, match="its reward is nan"):
        as_rewards([math.nan], 1)


@pytest.mark.parametrize("error", [KeyError("a"), SystemExit(2), KeyboardInterrupt()])
def test_whatever_is_raised_is_reported(error):
    def function(completions):
        raise error

    failure = Caller(function).rewards({"completions": ["x"]}, 1)
    assert isinstance(failure, Failure)
    assert failure.kind == "raised"
    assert type(error).__name__ in failure.text
    assert "in function" in failure.text
    assert "runner/calling.py" not in failure.text
