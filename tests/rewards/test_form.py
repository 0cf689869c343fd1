"""The format reward."""

import pickle

import pytest

from lgrpo_lightning.rewards import FormatReward

THINK = r"<think>.+</think>\s*\\boxed\{.+\}\s*"


def score(reward, *completions):
    return reward(["?"] * len(completions), completions, [[1]] * len(completions), answer=["x"])


def test_fullmatch_describes_the_whole_completion():
    reward = FormatReward(THINK, flags=["DOTALL"])
    good = "<think>a\nb</think>\n\\boxed{4}\n"
    assert score(reward, good, "so " + good, good + "!", "4") == [1.0, 0.0, 0.0, 0.0]
    assert score(FormatReward(THINK), good) == [0.0]  # without DOTALL . ends at the line


def test_search_finds_it_anywhere():
    reward = FormatReward("^answer: [0-9]+$", flags=["MULTILINE", "IGNORECASE"], mode="search")
    conversational = [{"role": "assistant", "content": "…\nANSWER: 5\n"}]
    assert score(reward, "well\nAnswer: 4\nbye", "the answer: 4", conversational) == [1.0, 0.0, 1.0]


def test_goes_to_another_process():
    reward = pickle.loads(pickle.dumps(FormatReward("a+")))
    assert score(reward, "aa", "b") == [1.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pattern": "(a"}, r"'\(a' does not compile: missing \)"),
        ({"pattern": "a", "flags": ["DOTAL"]}, "DOTAL.*known are"),
        ({"pattern": "a", "flags": "DOTALL"}, "list of names"),
        ({"pattern": "a", "mode": "match"}, "'fullmatch' or 'search', got 'match'"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        FormatReward(**arguments)
