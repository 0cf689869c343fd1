"""What sampling settings refuse, and how they find allowed tokens."""

import pytest

from lgrpo_lightning.rollout import SamplingSettings
from tests.rollout.tiny import letters


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"temperature": -0.1}, "temperature must be 0 or more, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be 0 or more, got nan"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0; 1 switches it off"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k must be 0 or more, got -1; 0 switches it off"),
        ({"min_p": 1.0}, r"min_p must be in \[0, 1\), got 1.0"),
        ({"stop": ["a", ""]}, "stop holds an empty string"),
    ],
)
def test_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        SamplingSettings(**arguments)


def test_allowed_ids_are_sorted_and_unique():
    tokenizer = letters()
    settings = SamplingSettings(allowed_tokens=["c", "<eos>", 7, "c", "ab"])
    expected = {*tokenizer.convert_tokens_to_ids(["c", "<eos>", "ab"]), 7}
    assert settings.allowed_ids(tokenizer) == sorted(expected)
    assert SamplingSettings().allowed_ids(tokenizer) is None


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        (["abc"], "'abc' is 3 tokens of this tokenizer"),
        ([1000], "1000 is no id below 25"),
        ([-1], "-1 is no id"),
        ([], "allowed_tokens is empty"),
    ],
)
def test_allowed_tokens_that_are_none(allowed, message):
    with pytest.raises(ValueError, match=message):
        SamplingSettings(allowed_tokens=allowed).allowed_ids(letters())
