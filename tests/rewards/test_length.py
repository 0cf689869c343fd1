"""Length penalties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgrpo_lightning.rewards import LengthPenalty, OverlongPenalty


def score(reward, *lengths):
    return reward(["?"] * len(lengths), ["x"] * len(lengths), [[7] * n for n in lengths])


def test_overlong_penalty_by_hand():
    # DAPO Eq. 13 with L_max = 100, L_cache = 20: free up to 80, then −1/20 per token, −1 above.
    reward = OverlongPenalty(max_tokens=100, buffer_tokens=20)
    assert score(reward, 0, 80, 81, 90, 100, 101, 500) == [0.0, 0.0, -0.05, -0.5, -1.0, -1.0, -1.0]


def test_overlong_penalty_without_a_buffer():
    assert score(OverlongPenalty(10, 0), 9, 10, 11) == [0.0, 0.0, -1.0]


@given(
    maximum=st.integers(1, 200),
    share=st.floats(0, 1),
    lengths=st.lists(st.integers(0, 400), min_size=1),
)
def test_overlong_penalty_falls_with_length(maximum, share, lengths):
    penalties = score(OverlongPenalty(maximum, int(share * maximum)), *sorted(lengths))
    assert penalties == sorted(penalties, reverse=True)
    assert all(-1 <= penalty <= 0 for penalty in penalties)


def test_length_penalty_around_a_target():
    reward = LengthPenalty(target_tokens=10, per_token=0.1, lowest=-0.5)
    assert score(reward, 10, 9, 12, 100, 0) == pytest.approx([0, -0.1, -0.2, -0.5, -0.5])


def test_length_penalty_above_a_maximum():
    reward = LengthPenalty(max_tokens=10, per_token=0.1)
    assert score(reward, 0, 10, 13, 100) == pytest.approx([0, 0, -0.3, -1.0])


@pytest.mark.parametrize(
    ("penalty", "arguments", "message"),
    [
        (LengthPenalty, {}, "exactly one"),
        (LengthPenalty, {"target_tokens": 5, "max_tokens": 6}, "exactly one"),
        (LengthPenalty, {"target_tokens": 0}, "target_tokens .*got 0"),
        (LengthPenalty, {"max_tokens": 1.5}, "max_tokens .*got 1.5"),
        (LengthPenalty, {"max_tokens": 5, "per_token": -1.0}, "per_token .*got -1.0"),
        (LengthPenalty, {"max_tokens": 5, "lowest": 1.0}, "lowest .*got 1.0"),
        (OverlongPenalty, {"max_tokens": 0, "buffer_tokens": 0}, "max_tokens .*got 0"),
        (OverlongPenalty, {"max_tokens": 5, "buffer_tokens": -1}, "buffer_tokens .*got -1"),
        (OverlongPenalty, {"max_tokens": 5, "buffer_tokens": 6}, "must not exceed max_tokens=5"),
    ],
)
def test_mistakes_are_named(penalty, arguments, message):
    with pytest.raises(ValueError, match=message):
        penalty(**arguments)
