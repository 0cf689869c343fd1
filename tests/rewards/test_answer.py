"""The answer of a completion, and which answers are the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgrpo_lightning.rewards import final_answer, normal_form


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"\boxed{33}", "33"),
        (r"first \boxed{3}, no, \boxed{4}", "4"),
        ("#### 1,080.", "1080"),
        ("#### 5\nAnything else?", "5"),
        (r"\boxed{3} #### 4", "4"),
        (r"#### 4 or rather \boxed{3}", "3"),
        ("The answer is 12.", "12"),
        ("The final answer is: **$\\frac{1}{2}$**.", "1/2"),
        ("Answer: x + 1", "x+1"),
        ("The answer is 3. Wait, the answer is 4", "4"),
        ("I think 42", None),
        ("", None),
        (r"\boxed{}", None),
        (r"\boxed{33", None),
    ],
)
def test_where_the_answer_stands(completion, answer):
    assert final_answer(completion) == answer


@pytest.mark.parametrize(
    "same",
    [
        ("33", "033", "33.", "33.0", "$33$", r"\(33\)", r"\text{33}", " 33 "),
        ("1/2", r"\frac{1}{2}", r"\dfrac{1}{2}", r"\frac12", "0.5", ".50", "2/4"),
        ("-1/2", r"-\frac{1}{2}", "−0.5"),
        ("1,080", "1080", r"1{,}080", r"1\,080", r"\$1,080"),
        (r"\left(1, 2\right)", "(1,2)"),
        (r"\textbf{(A) }", "(A)"),
        ("1/0",),
        ("9" * 10_000,),
    ],
)
def test_equal_answers_have_one_form(same):
    assert len({normal_form(answer) for answer in same}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [("33", "-33"), ("1,2", "12"), ("1/2", "1/3"), ("x", "X"), ("(1,2)", "(2,1)"), ("5%", "5")],
)
def test_different_answers_stay_different(one, other):
    assert normal_form(one) != normal_form(other)


@given(st.text(alphabet=r"0123456789.,/+-−${}\frac text{}()", max_size=30))
def test_spaces_make_no_difference_and_nothing_fails(answer):
    assert normal_form(f" {answer} ") == normal_form(answer)


@given(st.fractions(max_denominator=1000))
def test_fractions_are_read_exactly(value):
    sign = "-" if value < 0 else ""
    latex = rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    assert normal_form(latex) == normal_form(f"{value}") == str(value)
