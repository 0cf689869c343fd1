"""Answers judged by math-verify, and its traps."""

import threading

import pytest

from lgrpo_lightning.rewards import MathReward, math_reward


def score(completion, reference=None, **columns):
    if reference is not None:
        columns["answer"] = [reference]
    return math_reward(["?"], [completion], [[1]], **columns)[0]


@pytest.mark.parametrize(
    ("reference", "completion"),
    [
        ("33", r"\boxed{033}"),
        ("033", r"\boxed{33}"),
        (33, r"\boxed{33}"),
        (27.0, r"\boxed{27}"),
        (-1.0, r"\boxed{-1}"),
        ("1,080", r"\boxed{1080}"),
        ("1080", r"\boxed{1,080}"),
        ("1080", r"\boxed{1{,}080}"),
        ("109200000", r"\boxed{109,200,000}"),
        ("104", r"\boxed{104.}"),
        ("104.", r"\boxed{104}"),
        ("113", r"\boxed{\textbf{(113) }}"),
        ("073", r"\boxed{\textbf{(073)}}"),
        (r"\textbf{(073)}", r"\boxed{73}"),
        (r"\text{-5.}", r"\boxed{-5}"),
        ("5", r"\boxed{\$5}"),
        ("5", r"\boxed{5 \text{ apples}}"),
        ("5", r"\boxed{x = 5}"),
        ("1/2", r"\boxed{\frac{1}{2}}"),
        (r"\frac12", r"\boxed{0.5}"),
        (r"$\frac{1}{2}$", r"\boxed{0.5}"),
        (r"\(\frac{1}{2}\)", r"\boxed{0.5}"),
        (r"\boxed{\frac{1}{2}}", r"\boxed{0.5}"),
        (0.5, r"\boxed{\frac{1}{2}}"),
        (1e-05, r"\boxed{10^{-5}}"),
        (r"2\sqrt{3}", r"\boxed{\sqrt{12}}"),
        (r"\{1, 2\}", r"\boxed{\{2, 1\}}"),
        ("(1, 2)", r"\boxed{(1,2)}"),
        (r"90^\circ", r"\boxed{90}"),
        ("Evelyn", r"\boxed{\text{Evelyn}}"),
        (r"\text{Evelyn}", r"\boxed{Evelyn}"),
        ("5", "The final answer is $5$."),
        ("5", "The answer is: 5"),
        ("5", [{"role": "assistant", "content": r"\boxed{5}"}]),
        ("4", r"\boxed{3}, no, \boxed{4}"),
        ("2 + 2 = 4\n#### 4", r"\boxed{4}"),
    ],
)
def test_right(reference, completion):
    assert score(completion, reference) == 1.0


@pytest.mark.parametrize(
    ("reference", "completion"),
    [
        ("33", r"\boxed{34}"),
        ("33", r"\boxed{-33}"),
        ("-33", r"\boxed{33}"),
        ("33", "33"),  # an unanchored number is no answer
        ("33", ""),
        ("33", r"\boxed{}"),
        ("33", r"\boxed{33"),
        ("3", r"\boxed{3}, no, \boxed{4}"),
        ("3", r"\boxed{3 or 4}"),
        ("3", r"\boxed{3, 4}"),
        ("Evelyn", r"\boxed{nylevE}"),
        ("Evelyn", r"\boxed{Angela}"),
        (r"\frac{1}{2}", r"\boxed{\frac{1}{3}}"),
        ("0.5", r"\boxed{0.51}"),
        ("5", r"\boxed{???}"),
    ],
)
def test_wrong(reference, completion):
    assert score(completion, reference) == 0.0


@pytest.mark.parametrize(
    "reference", ["???", "", "...", r"\frac{", "}{", float("nan"), float("inf"), True, [5]]
)
def test_unreadable_reference_is_named_and_never_right(reference):
    completion = rf"\boxed{{{reference}}}"
    with pytest.raises(ValueError, match="reference answer"):
        score(completion, reference)
    with pytest.raises(ValueError, match=r"column 'answer', row 1: .*reference answer"):
        math_reward.check_references({"answer": ["5", reference]})


def test_last_box_of_a_solution_is_the_reference():
    solution = r"First \boxed{3}. But then $x = \boxed{\frac{9}{2}}$."
    assert score(r"\boxed{4.5}", solution=[solution]) == 1.0
    assert score(r"\boxed{3}", solution=[solution]) == 0.0


def test_answer_goes_before_solution():
    assert score(r"\boxed{3}", "3", solution=[r"no box at all"]) == 1.0


def test_solution_without_a_box_is_named():
    with pytest.raises(ValueError, match=r"the answer is 5.*has no \\boxed"):
        score(r"\boxed{5}", solution=["the answer is 5"])
    with pytest.raises(ValueError, match="column 'solution', row 1"):
        math_reward.check_references({"solution": [r"\boxed{5}", "the answer is 5"]})


def test_no_column_is_an_error():
    with pytest.raises(ValueError, match="'answer' or 'solution'"):
        score(r"\boxed{5}")
    with pytest.raises(ValueError, match=r"'answer' or 'solution'.*\['question'\]"):
        math_reward.check_references({"question": ["?"]})


def test_no_reference_means_does_not_apply():
    assert math_reward(["?"] * 2, ["", ""], [[], []], answer=[None, "5"]) == [None, 0.0]


def test_works_outside_the_main_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(score(r"\boxed{5}", "5")))
    thread.start()
    thread.join()
    assert found == [1.0]


def test_math_verify_does_not_complain_about_time_limits(caplog):
    score(r"\boxed{5}", "5")
    assert caplog.text == ""


def test_large_sets_are_checked_by_sample():
    answers = ["5"] * 100_000
    answers[50_000] = "???"  # a multiple of the stride, 50
    with pytest.raises(ValueError, match="row 50000"):
        math_reward.check_references({"answer": answers})


def test_references_that_cannot_be_read_are_refused_or_compared_as_text():
    reference = r"$t(0, 4]$"
    with pytest.raises(ValueError, match=r"unreadable='as_text'"):
        MathReward().check_references({"answer": ["5", reference]})
    reward = MathReward(unreadable="as_text")
    reward.check_references({"answer": ["5", reference]})
    completions = [r"\boxed{t(0,4]}", r"\boxed{t(0,4)}", reference, r"\boxed{5}"]
    found = reward(["?"] * 4, completions, [[]] * 4, answer=[reference] * 4)
    assert found == [1.0, 0.0, 0.0, 0.0]
    assert reward(["?"], [r"\boxed{0.5}"], [[]], answer=[r"$\frac{1}{2}$"]) == [1.0]
    with pytest.raises(ValueError, match=r"unreadable must be one of .* got 'skip'"):
        MathReward(unreadable="skip")


def test_a_list_of_one_reference_is_its_entry_and_of_several_an_error():
    reward = MathReward(unreadable="as_text")
    assert reward(["?"], [r"\boxed{2}"], [[]], answer=[["$2$"]]) == [1.0]
    with pytest.raises(ValueError, match="reference answer"):
        reward.check_references({"answer": [["2", "3"]]})
    assert reward(["?"], [""], [[]], answer=[None]) == [None]
