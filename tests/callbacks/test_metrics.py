import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrpo_callbacks.metrics import (
    MajorityAtK,
    MaskedMeans,
    PassAtK,
    bootstrap_interval,
    kl_estimates,
    majority_at_k,
    pass_at_k,
)


def brute_force_pass_at_k(samples, correct, k):
    solved = [True] * correct + [False] * (samples - correct)
    subsets = list(itertools.combinations(solved, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


def test_pass_at_k_equals_the_share_of_all_subsets_with_a_correct_sample():
    for samples in range(1, 9):
        for k in range(1, samples + 1):
            correct = torch.arange(samples + 1)
            got = pass_at_k(torch.full_like(correct, samples), correct, k)
            wanted = [brute_force_pass_at_k(samples, c, k) for c in range(samples + 1)]
            assert got.tolist() == pytest.approx(wanted, abs=1e-12)


def test_pass_at_k_is_accurate_where_binomials_overflow():
    samples, correct, k = 4000, 3, 1000
    wanted = 1 - math.comb(samples - correct, k) / math.comb(samples, k)
    got = pass_at_k(torch.tensor([samples]), torch.tensor([correct]), k)
    assert got.item() == pytest.approx(wanted, rel=1e-10)


def test_pass_at_k_takes_problems_with_different_numbers_of_samples():
    got = pass_at_k(torch.tensor([2, 5]), torch.tensor([1, 1]), 2)
    assert got.tolist() == pytest.approx([1.0, 0.4])


@pytest.mark.parametrize(
    ("samples", "correct", "k", "message"),
    [(3, 1, 4, "at least 4 completions"), (3, 4, 1, "between 0"), (3, 1, 0, "1 or more")],
)
def test_pass_at_k_refuses_impossible_counts(samples, correct, k, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k(torch.tensor([samples]), torch.tensor([correct]), k)


def brute_force_majority_at_k(answers, correct, k):
    total, draws = 0.0, list(itertools.combinations(range(len(answers)), k))
    for draw in draws:
        votes = Counter(answers[index] for index in draw if answers[index] is not None)
        winners = [answer for answer in votes if votes[answer] == max(votes.values())]
        for winner in winners:
            right = [
                good for answer, good in zip(answers, correct, strict=True) if answer == winner
            ]
            total += sum(right) / len(right) / len(winners)
    return total / len(draws)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["x", "y", "z", None]), st.booleans()), min_size=1,
                max_size=8), st.data())  # fmt: skip
def test_majority_at_k_equals_the_votes_of_all_subsets(completions, data):
    answers, correct = zip(*completions, strict=True)
    k = data.draw(st.integers(1, len(answers)))
    wanted = brute_force_majority_at_k(answers, correct, k)
    assert majority_at_k(answers, correct, k) == pytest.approx(wanted, abs=1e-12)


def test_majority_of_all_completions_is_one_vote():
    assert majority_at_k(["4", "5", "4", "6"], [True, False, True, False], 4) == 1
    assert majority_at_k(["4", "5"], [True, False], 2) == 0.5
    assert majority_at_k([None, None], [True, True], 1) == 0
    # Too many subsets to look at: 100 completions, 60 of them right, and a vote of 50.
    assert majority_at_k(["4"] * 60 + ["5"] * 40, [True] * 60 + [False] * 40, 50) > 0.95


def test_majority_at_k_refuses_impossible_counts():
    with pytest.raises(ValueError, match="maj@3 needs"):
        majority_at_k(["4", "5"], [True, False], 3)
    with pytest.raises(ValueError, match="maj@0 needs"):
        majority_at_k(["4"], [True], 0)
    with pytest.raises(ValueError, match="got 1 and 2"):
        majority_at_k(["4"], [True, False], 1)


def test_the_majority_metric_weighs_problems_not_batches():
    metric = MajorityAtK(k=1)
    metric.update([["a", "b"]], torch.tensor([[True, False]]))
    metric.update([["a", "a"], [None, None]], torch.tensor([[True, True], [False, False]]))
    assert metric.compute() == pytest.approx((0.5 + 1 + 0) / 3)
    with pytest.raises(ValueError, match="k of maj@k must be 1 or more"):
        MajorityAtK(k=0)


def test_pass_at_k_metric_weighs_problems_not_batches():
    correct = torch.rand(7, 5, generator=torch.Generator().manual_seed(1)) < 0.4
    metric = PassAtK(k=2)
    metric.update(correct[:1])
    metric.update(correct[1:])
    wanted = [brute_force_pass_at_k(5, int(row.sum()), 2) for row in correct]
    assert metric.compute().item() == pytest.approx(sum(wanted) / 7, rel=1e-6)


def test_pass_at_k_metric_names_too_few_samples_and_wrong_shapes():
    with pytest.raises(ValueError, match="at least 3 completions"):
        PassAtK(k=3).update(torch.ones(4, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\[problems, completions\]"):
        PassAtK(k=1).update(torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="1 or more"):
        PassAtK(k=0)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_masked_means_do_not_depend_on_the_batches(data):
    size = data.draw(st.integers(1, 30))
    values = torch.tensor(data.draw(st.lists(st.floats(-10, 10), min_size=size, max_size=size)))
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    cut = data.draw(st.integers(0, size))
    metric = MaskedMeans(["other", "value"])
    metric.update({"value": values[:cut]}, mask[:cut])
    metric.update({"value": values[cut:]}, mask[cut:])
    means, weights = metric.compute()
    assert weights["value"] == mask.sum()
    assert weights["other"] == 0
    assert means["other"].isnan()
    if mask.any():
        assert means["value"].item() == pytest.approx(values[mask].double().mean().item(), abs=1e-5)


def test_masked_means_ignore_what_lies_off_the_mask():
    metric = MaskedMeans(["value"])
    values = torch.tensor([[1.0, float("nan")], [3.0, float("inf")]])
    metric.update({"value": values}, torch.tensor([[True, False], [True, False]]))
    assert metric.compute().means["value"] == 2


def test_masked_means_refuse_unknown_names_and_other_shapes():
    metric = MaskedMeans(["value"])
    with pytest.raises(ValueError, match="unknown names"):
        metric.update({"valu": torch.ones(2)}, torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="one shape"):
        metric.update({"value": torch.ones(2, 1)}, torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="different"):
        MaskedMeans(["value", "value"])


def test_kl_estimates_are_unbiased_for_tokens_of_another_sampler():
    random = torch.Generator().manual_seed(0)
    policy, other, sampler = torch.randn(3, 6, generator=random).double().log_softmax(dim=1)
    exact = (policy.exp() * (policy - other)).sum()
    k1, _, k3 = kl_estimates(policy, other, sampler)  # one column per token of the vocabulary
    assert (sampler.exp() * k1).sum().item() == pytest.approx(exact.item(), rel=1e-9)
    assert (sampler.exp() * k3).sum().item() == pytest.approx(exact.item(), rel=1e-9)


def test_kl_estimates_to_the_sampler_are_unbiased():
    random = torch.Generator().manual_seed(0)
    policy, sampler = torch.randn(2, 6, generator=random).double().log_softmax(dim=1)
    exact = (policy.exp() * (policy - sampler)).sum()
    k1, _, k3 = kl_estimates(policy, sampler, sampler)
    assert (sampler.exp() * k1).sum().item() == pytest.approx(exact.item(), rel=1e-9)
    assert (sampler.exp() * k3).sum().item() == pytest.approx(exact.item(), rel=1e-9)


def test_kl_estimates_on_policy_are_schulmans():
    policy, other = torch.tensor([-1.0]), torch.tensor([-1.5])
    k1, k2, k3 = kl_estimates(policy, other, policy)
    assert k1.item() == pytest.approx(0.5)
    assert k2.item() == pytest.approx(0.125)
    assert k3.item() == pytest.approx(math.exp(-0.5) - 1 + 0.5)


def test_k3_keeps_the_digits_of_a_small_divergence():
    policy = torch.tensor([-1.0])
    k3 = kl_estimates(policy, policy + 2**-12, policy)[2]
    assert k3.item() == pytest.approx(2**-25, rel=1e-3)


def test_k3_survives_a_token_that_the_policy_gave_up():
    policy, other = torch.tensor([-200.0]), torch.tensor([-1.0])
    k3 = kl_estimates(policy, other, other)[2]
    assert k3.item() == pytest.approx(1.0)  # w·(e^-ρ - 1 + ρ) with w → 0 and w·e^-ρ = 1


def test_bootstrap_interval_covers_the_mean_about_as_often_as_it_says():
    random = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(100):
        sample = (torch.rand(60, generator=random) < 0.3).float()
        low, high = bootstrap_interval(sample, resamples=200)
        hits += low <= 0.3 <= high
    assert 85 <= hits <= 100


def test_bootstrap_interval_is_reproducible_ignores_order_and_leaves_the_global_generator_alone():
    values = torch.rand(20, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    assert bootstrap_interval(values) == bootstrap_interval(values.flip(0))
    assert torch.equal(state, torch.get_rng_state())
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high


def test_bootstrap_interval_of_edge_cases():
    assert bootstrap_interval(torch.tensor([0.25])) == (0.25, 0.25)
    assert all(math.isnan(end) for end in bootstrap_interval(torch.tensor([])))
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_interval(torch.ones(2), resamples=0)
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval(torch.ones(2), confidence=1.0)
