"""Advantages worked out by hand, and what must hold for any rewards."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lgrpo_lightning.objective import group_advantages

NAN = float("nan")
SCALES = ("group", "batch", "none")


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        # Means 1/2 and 3. Deviations: sqrt(((1/2)² + (1/2)²) / 1) = .70711 and 1.41421.
        ("group", [[0.5 / 0.70721, -0.5 / 0.70721], [-1 / 1.41431, 1 / 1.41431]]),
        # All four, mean 1.75: sqrt((.75² + 1.75² + .25² + 2.25²) / 3) = sqrt(8.75 / 3) = 1.70783.
        ("batch", [[0.5 / 1.70793, -0.5 / 1.70793], [-1 / 1.70793, 1 / 1.70793]]),
        ("none", [[0.5, -0.5], [-1.0, 1.0]]),
    ],
)
def test_worked_by_hand(scale, expected):
    advantages = group_advantages(torch.tensor([[1.0, 0.0], [2.0, 4.0]]), scale)
    torch.testing.assert_close(advantages, torch.tensor(expected), rtol=1e-5, atol=0)


def test_deviation_is_the_sample_one_and_epsilon_is_added_to_it():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    deviation = (4 * 0.25 / 3) ** 0.5
    first = group_advantages(rewards)[0, 0].item()
    assert first == pytest.approx(0.5 / (deviation + 1e-4), rel=1e-12)
    assert group_advantages(rewards, epsilon=1.0)[0, 0].item() == pytest.approx(
        0.5 / (deviation + 1.0), rel=1e-12
    )


def test_missing_rewards_get_no_advantage_and_move_neither_mean_nor_deviation():
    rewards = torch.tensor([[1.0, NAN, 0.0], [NAN, 7.0, NAN], [NAN, NAN, NAN]])
    advantages = group_advantages(rewards)
    half = 0.5 / (0.5**0.5 + 1e-4)
    expected = torch.tensor([[half, 0, -half], [0, 0, 0], [0, 0, 0]])
    torch.testing.assert_close(advantages, expected)


def test_batch_deviation_leaves_missing_rewards_out():
    rewards = torch.tensor([[1.0, NAN, 0.0], [2.0, 2.0, NAN]])
    deviation = torch.tensor([1.0, 0.0, 2.0, 2.0]).std()
    first = group_advantages(rewards, "batch")[0, 0]
    torch.testing.assert_close(first, 0.5 / (deviation + 1e-4))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 1e6 + 0.1])
def test_equal_rewards_give_exactly_zero(scale, value):
    rewards = torch.full((2, 7), value)
    rewards[1, 3] = NAN
    assert not group_advantages(rewards, scale).any()


@pytest.mark.parametrize("scale", SCALES)
def test_a_group_of_one_has_no_advantage(scale):
    assert group_advantages(torch.tensor([[5.0]]), scale).tolist() == [[0.0]]


rewards_of_a_group = st.lists(
    st.one_of(st.integers(-4, 4).map(float), st.just(NAN)), min_size=1, max_size=8
)


@given(rewards_of_a_group)
def test_missing_rewards_are_as_good_as_absent(rewards):
    row = torch.tensor([rewards], dtype=torch.float64)
    known = ~row.isnan()
    advantages = group_advantages(row)
    assert not advantages[~known].any()
    if known.any():
        torch.testing.assert_close(advantages[known], group_advantages(row[known][None])[0])


@given(rewards_of_a_group, st.sampled_from(SCALES))
def test_advantages_of_a_group_sum_to_zero(rewards, scale):
    advantages = group_advantages(torch.tensor([rewards], dtype=torch.float64), scale)
    assert advantages.sum().item() == pytest.approx(0, abs=1e-9)


def test_groups_are_scaled_on_their_own():
    rewards = torch.tensor([[1.0, 0.0, 0.0], [5.0, 2.0, 3.0]])
    together = group_advantages(rewards)
    assert torch.equal(together[:1], group_advantages(rewards[:1]))
    assert torch.equal(together[1:], group_advantages(rewards[1:]))


def test_dtype_is_kept():
    assert group_advantages(torch.rand(2, 3, dtype=torch.float64)).dtype == torch.float64
    assert group_advantages(torch.rand(2, 3)).dtype == torch.float32


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"\[B, G\], got \[4\]"):
        group_advantages(torch.rand(4))
    with pytest.raises(ValueError, match=r"'group', 'batch', 'none'.*got 'std'"):
        group_advantages(torch.rand(2, 2), "std")
