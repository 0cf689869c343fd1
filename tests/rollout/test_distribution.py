"""Drawing tokens: the noise, the inversion of cumulative weights, and the log-probs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrpo_lightning.rollout import SamplingSettings
from lgrpo_lightning.rollout.distribution import BLOCK, TokenDistribution, limiter, pick
from lgrpo_lightning.rollout.key_values import compacted
from lgrpo_lightning.rollout.noise import row_noise


def distribution(allowed=None, **arguments):
    settings = SamplingSettings(**arguments)
    return TokenDistribution(settings.temperature, limiter(settings), allowed)


def test_noise_is_uniform_and_independent():
    noise = row_noise(5, 200, 500)
    assert noise.shape == (200, 500, 2)
    assert noise.min() >= 0
    assert noise.max() < 1
    assert (noise.mean((0, 1)) - 0.5).abs().max() < 4 * (1 / 12 / 1e5) ** 0.5
    assert (noise.var((0, 1)) - 1 / 12).abs().max() < 1e-3
    counts = torch.histc(noise, 64, 0, 1)
    assert ((counts - 3125).square() / 3125).sum() < 63 + 4 * (2 * 63) ** 0.5
    pairs = {
        "numbers of a place": (noise[..., 0], noise[..., 1]),
        "next rows": (noise[1:], noise[:-1]),
        "next tokens": (noise[:, 1:], noise[:, :-1]),
        "next seeds": (noise, row_noise(6, 200, 500)),
    }
    for name, (first, second) in pairs.items():
        together = torch.stack([first.flatten(), second.flatten()])
        assert torch.corrcoef(together)[0, 1].abs() < 0.015, name


def test_noise_belongs_to_the_place():
    assert torch.equal(row_noise(3, 10, 20)[:4, :7], row_noise(3, 4, 7))
    assert not torch.equal(row_noise(3, 4, 7), row_noise(4, 4, 7))
    assert row_noise(2**63 - 1, 2, 2).shape == (2, 2, 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3 * BLOCK), st.integers(0, 2**32), st.floats(0.0, 0.95))
def test_pick_never_takes_a_column_without_weight(width, seed, empty):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(50, width, generator=generator) ** 20
    weights[torch.rand(50, width, generator=generator) < empty] = 0
    weights[:, seed % width] += 1e-30
    uniform = torch.rand(50, 2, generator=generator)
    uniform[:10] = 0.0
    uniform[10:20] = 1 - 2.0**-24
    taken = pick(weights, uniform)
    assert (weights.gather(1, taken.unsqueeze(1)) > 0).all()


def test_pick_draws_in_proportion_also_what_is_rare():
    # One column of a third, two of a sixth, and 3,000 rare ones that make up the last third.
    weights = torch.cat([torch.tensor([2.0, 1.0, 1.0]), torch.full((3000,), 2 / 3000)])
    uniform = row_noise(0, 60_000, 1)[:, 0]
    taken = pick(weights.expand(60_000, -1), uniform)
    shares = [(taken == column).float().mean() for column in range(3)]
    torch.testing.assert_close(torch.stack(shares), torch.tensor([2, 1, 1]) / 6, atol=0.008, rtol=0)
    rare = taken[taken > 2] - 3
    counts = torch.histc(rare.float(), 30, 0, 3000)
    expected = len(rare) / 30
    assert ((counts - expected).square() / expected).sum() < 29 + 4 * (2 * 29) ** 0.5


def test_logprobs_are_those_of_the_full_distribution():
    logits = torch.randn(40, 100, generator=torch.Generator().manual_seed(0)) * 3
    uniform = row_noise(0, 40, 1)[:, 0]
    for limits in ({}, {"top_p": 0.5}, {"top_k": 3}, {"min_p": 0.2}):
        tokens, logprobs = distribution(temperature=0.7, **limits).draw(logits, uniform)
        expected = (logits / 0.7).log_softmax(-1).gather(1, tokens.unsqueeze(1))[:, 0]
        torch.testing.assert_close(logprobs, expected)


def test_allowed_tokens_are_the_whole_distribution():
    logits = torch.randn(40, 100, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    allowed = torch.tensor([3, 50, 99])
    tokens, logprobs = distribution(allowed).draw(logits, row_noise(0, 40, 1)[:, 0])
    assert set(tokens.tolist()) == {3, 50, 99}
    every = logits.float()[:, allowed].log_softmax(-1)
    expected = every.gather(1, torch.searchsorted(allowed, tokens).unsqueeze(1))[:, 0]
    torch.testing.assert_close(logprobs, expected)


def test_temperature_zero_takes_the_most_likely_token():
    logits = torch.randn(40, 100)
    tokens, logprobs = distribution(temperature=0.0).draw(logits, row_noise(0, 40, 1)[:, 0])
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).amax(-1))


@pytest.mark.parametrize(
    ("count", "gone", "order"),
    [
        (3, [], [0, 1, 2]),
        (3, [0], [2, 1]),
        (5, [1, 3], [0, 4, 2]),
        (4, [2, 3], [0, 1]),
        (2, [0, 1], []),
    ],
)
def test_compacted(count, gone, order):
    assert compacted(count, gone) == order


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_compacted_moves_only_from_behind(case):
    count, gone = case
    order = compacted(count, list(gone))
    assert sorted(order) == sorted(set(range(count)) - gone)
    assert all(source == slot or source >= len(order) for slot, source in enumerate(order))
