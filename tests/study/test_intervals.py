import math

import pytest

from lgrpo_lightning.study.intervals import (
    Estimate,
    mean_estimate,
    share_estimate,
    student_quantile,
)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (4, 2.7764), (9, 2.2622), (19, 2.0930), (1000, 1.9623)]
)
def test_student_quantiles_are_those_of_the_tables(freedom, quantile):
    assert student_quantile(freedom) == pytest.approx(quantile, abs=5e-5)


def test_mean_by_hand():
    estimate = mean_estimate([1.0, 2.0, 3.0])
    assert estimate.value == 2.0
    assert estimate.high - 2 == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
    assert 2 - estimate.low == pytest.approx(estimate.high - 2)


def test_one_value_has_no_interval():
    estimate = mean_estimate([0.5])
    assert estimate.value == 0.5
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_wilson_by_hand():
    estimate = share_estimate(8, 10)  # the textbook's [0.490, 0.943]
    assert estimate.value == 0.8
    assert estimate.low == pytest.approx(0.4902, abs=1e-4)
    assert estimate.high == pytest.approx(0.9433, abs=1e-4)
    assert share_estimate(0, 10).low == 0.0
    assert share_estimate(10, 10).high == 1.0
    assert share_estimate(10, 10).low < 0.8


def test_text():
    assert share_estimate(8, 10).text() == "0.80 [0.49, 0.94]"
    assert share_estimate(8, 10).text(1, sign=True) == "+0.8 [+0.5, +0.9]"


def test_an_interval_stays_within_what_is_possible():
    estimate = Estimate(0.8, 0.5, 1.1).within(0, 1)
    assert (estimate.value, estimate.low, estimate.high) == (0.8, 0.5, 1.0)
