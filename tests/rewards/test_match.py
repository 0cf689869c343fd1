"""Rewards that compare strings."""

import pytest

from lgrpo_lightning.rewards import boxed_match_reward, exact_match_reward


def score(reward, completions, answer):
    return reward(["?"] * len(answer), completions, [[1]] * len(answer), answer=answer)


def test_exact_match():
    completions = [" 42\n", "42.", "", [{"role": "assistant", "content": "yes"}], "27"]
    assert score(exact_match_reward, completions, ["42", "42", "42", " yes", 27.0]) == [
        1.0,
        0.0,
        0.0,
        1.0,
        1.0,
    ]


def test_boxed_match_takes_the_last_box():
    completions = [r"\boxed{1} so \boxed{ 2 }", r"\boxed{2} or \boxed{1}", "2", r"\boxed{\{2\}}"]
    assert score(boxed_match_reward, completions, ["2", "2", "2", r"\{2\}"]) == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("reward", [exact_match_reward, boxed_match_reward])
def test_no_reference_means_does_not_apply(reward):
    assert score(reward, ["4", "5"], [None, "4"]) == [None, 0.0]


@pytest.mark.parametrize("reward", [exact_match_reward, boxed_match_reward])
def test_empty_reference_is_refused(reward):
    with pytest.raises(ValueError, match="reference answer"):
        score(reward, [""], [""])
    with pytest.raises(ValueError, match="row 1"):
        reward.check_references({"answer": ["1", ""]})
