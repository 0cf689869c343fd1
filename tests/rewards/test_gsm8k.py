"""GSM8K's answers."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgrpo_lightning.rewards import gsm8k_reward

SOLUTION = "She has 3 * 360 = <<3*360=1080>>1,080 eggs.\n#### 1,080"


def score(completion, reference):
    return gsm8k_reward(["?"], [completion], [[1]], answer=[reference])[0]


@pytest.mark.parametrize(
    "completion",
    [
        "#### 1080",
        "####1080",
        "#### 1,080",
        "#### $1,080.",
        "#### \\$1,080.00",
        "#### **1080**",
        "so\n####\n1080 eggs",
        r"\boxed{1080}",
        r"\boxed{1,080}",
        r"\boxed{1{,}080}",
        r"\boxed{1\,080}",
        r"\boxed{\$1,080}",
        r"\boxed{1080 \text{ eggs}}",
        "#### 5, no:\n#### 1080",
        r"\boxed{5}, no: #### 1080",
        r"#### 5, no: \boxed{1080}",
        [{"role": "assistant", "content": "#### 1080"}],
    ],
)
def test_right(completion):
    assert score(completion, SOLUTION) == 1.0


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "1080",  # no marker
        "#### ",
        "#### -1080",
        "#### 1080.5",
        "#### 1080/2",
        "#### 1080^2",
        "#### 1,080,5",
        "#### 1080e3",
        "#### 10:80",
        "#### one thousand",
        "#### 1080, no:\n#### 5",
        r"#### 1080, no: \boxed{5}",
        r"\boxed{1080}, no: #### 5",
        r"\boxed{1080}, no: ####",
        r"\boxed{x = 1080}",
    ],
)
def test_wrong(completion):
    assert score(completion, SOLUTION) == 0.0


@pytest.mark.parametrize(
    ("reference", "completion"),
    [
        ("#### -5", "#### -5"),
        ("#### -5", "#### −5"),
        ("#### -5", "#### -$5"),
        ("#### -5", "#### $-5"),
        ("#### .5", r"\boxed{0.50}"),
        ("#### $42.50", "#### 42.5"),
        ("#### 42.", "#### 42"),
        ("42", "#### 42"),
        ("1,080.", "#### 1080"),
        (42, "#### 42"),
        (42.0, "#### 42"),
        (0.1, "#### 0.10"),
        ("#### 109,200,000", "#### 109200000"),
    ],
)
def test_references(reference, completion):
    assert score(completion, reference) == 1.0


@pytest.mark.parametrize(
    "reference",
    ["She has 1080 eggs.", "#### many", "", "1080 eggs", "3/4", "####", float("nan"), ["#### 4"]],
)
def test_reference_without_an_answer_is_named(reference):
    with pytest.raises(ValueError, match="reference"):
        score("#### 1080", reference)
    with pytest.raises(ValueError, match="column 'answer', row 1: the reference"):
        gsm8k_reward.check_references({"answer": ["#### 1", reference]})


def test_no_reference_means_does_not_apply():
    assert score("#### 4", None) is None


numbers = st.decimals(min_value=-(10**12), max_value=10**12, places=2)


@given(reference=numbers, found=numbers)
def test_one_exactly_if_the_numbers_are_equal(reference, found):
    expected = float(Decimal(reference) == Decimal(found))
    assert score(f"… #### {found:,}", f"… #### {reference}") == expected
    assert score(rf"… \boxed{{{found}}}.", f"#### {reference:,}") == expected
    assert score(f"#### {reference:,}.", f"#### {reference}") == 1.0
