"""The reward of the paper's toy study."""

import itertools

import pytest

from lgrpo_lightning.rewards import BinaryTreeReward

PATHS = ["".join(path) for path in itertools.product("LR", repeat=4)]


@pytest.mark.parametrize("shared", [0, 1, 2, 3])
@pytest.mark.parametrize("target", ["LLLL", "RLLR"])
def test_rewards_of_all_paths(target, shared):
    reward = BinaryTreeReward(target, shared, negative=-0.5)
    found = dict(zip(PATHS, reward(["?"] * 16, PATHS, [[1]] * 16), strict=True))
    assert found.pop(target) == 1.0
    beside = [path for path in found if path.startswith(target[:shared])]
    assert len(beside) == 2 ** (4 - shared) - 1
    assert all(found.pop(path) == -0.5 for path in beside)
    assert all(value == 0.7 for value in found.values())


def test_conversational_and_spaced_paths():
    reward = BinaryTreeReward("LR", 1, negative=-1.0, positive=0.1, target_reward=2.0)
    completions = [" L R\n", [{"role": "assistant", "content": "LL"}], "RR"]
    assert reward(["?"] * 3, completions, [[1, 2]] * 3) == [2.0, -1.0, 0.1]


@pytest.mark.parametrize("completion", ["", "LLL", "LLLLL", "LLLX"])
def test_other_completions_are_no_paths(completion):
    with pytest.raises(ValueError, match="no path of 4 steps"):
        BinaryTreeReward("LLLL", 1, -0.5)(["?"], [completion], [[1]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", 0, -0.5), "target .*got ''"),
        (("LLX", 1, -0.5), "target .*got 'LLX'"),
        (("LLLL", 4, -0.5), "shared .*got 4"),
        (("LLLL", -1, -0.5), "shared .*got -1"),
        (("LLLL", 1, float("nan")), "negative .*got nan"),
        (("LLLL", 1, -0.5, float("inf")), "positive .*got inf"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BinaryTreeReward(*arguments)
