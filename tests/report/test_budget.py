import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgrpo_lightning.report.budget import Budget, choose_within, spread


@given(st.integers(1, 300), st.integers(0, 300))
def test_spread_returns_different_places_in_order_with_both_ends(total, wanted):
    places = spread(total, wanted)
    assert len(places) == min(total, wanted)
    assert places == sorted(set(places))
    if len(places) >= 2:
        assert (places[0], places[-1]) == (0, total - 1)


@given(st.lists(st.integers(1, 1000), max_size=60), st.integers(0, 20_000))
def test_choice_keeps_to_the_budget_and_takes_all_that_fits(sizes, budget):
    chosen = choose_within(sizes, budget)
    assert sum(sizes[place] for place in chosen) <= budget
    if sum(sizes) <= budget:
        assert chosen == list(range(len(sizes)))


def test_equal_sizes_fill_the_budget():
    assert len(choose_within([10] * 1000, 2000)) == 200


@pytest.mark.parametrize("runs", [1, 2, 7])
def test_all_runs_together_stay_below_15_megabytes(runs):
    budget = Budget.of_one_run(runs)
    number_bytes = 9  # "0.123456,"
    one = budget.tree_bytes + budget.completion_bytes + budget.evaluation_bytes
    assert runs * (one + number_bytes * budget.curve_numbers) < 15e6 - 150_000  # the page itself
