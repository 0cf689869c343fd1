"""Published data sets: each reference, given as the answer, is right, and another is wrong.

The data are not part of the project; they are looked for in ../shared/data beside it.
"""

import json
from pathlib import Path

import pytest

from lgrpo_lightning.rewards import MathReward, gsm8k_reward, math_reward

DATA = Path(__file__).parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the data sets in {DATA}")


def column(name, file="test", key="answer"):
    with (DATA / name / f"{file}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line)[key] for line in lines]


def final(solution):
    return solution.rpartition("####")[2].strip()


def assert_judged(reward, references, right, wrong):
    """Both judgements for every reference; ``right`` and ``wrong`` make completions of it."""
    count = len(references)
    reward.check_references({"answer": references})
    for complete, expected in ((right, 1.0), (wrong, 0.0)):
        completions = [complete(reference) for reference in references]
        rewards = reward(["?"] * count, completions, [[1]] * count, answer=references)
        failed = [c for c, r in zip(completions, rewards, strict=True) if r != expected]
        assert failed == [], f"{len(failed)} of {count} not {expected}"


@pytest.mark.parametrize("name", ["aime24", "amc23"])
def test_competition_answers(name):
    answers = column(name)
    assert_judged(
        math_reward,
        answers,
        right=lambda answer: rf"Hence \boxed{{{answer}}}.",
        wrong=lambda answer: rf"Hence \boxed{{{float(answer) + 1:g}}}.",
    )
    assert_judged(
        math_reward,
        answers,
        right=lambda answer: rf"\boxed{{{int(answer)}}}",  # 033 is 33, 27.0 is 27
        wrong=lambda answer: str(answer),
    )


def test_boxed_solutions_agree_with_their_answers():
    pairs = zip(column("aime24"), column("aime24", key="solution"), strict=True)
    for answer, solution in pairs:
        completion = rf"\boxed{{{answer}}}"
        assert math_reward(["?"], [completion], [[1]], solution=[solution]) == [1.0], solution[
            -200:
        ]


def gsm8k(stride):
    solutions = [*column("gsm8k", "train"), *column("gsm8k", "test")][::stride]
    assert_judged(
        gsm8k_reward,
        solutions,
        right=lambda solution: solution,
        wrong=lambda solution: solution + "1",
    )
    assert_judged(
        gsm8k_reward,
        solutions,
        right=lambda solution: rf"\boxed{{{final(solution)}}}",
        wrong=lambda solution: final(solution),
    )
    assert_judged(
        math_reward,
        [final(solution) for solution in solutions],
        right=lambda answer: rf"\boxed{{{answer}}}",
        wrong=lambda answer: rf"\boxed{{{answer}1}}",
    )


@pytest.mark.parametrize(("name", "stride"), [("aime24", 1), ("amc23", 1), ("gsm8k", 20)])
def test_the_reward_of_the_benchmarks(name, stride):
    assert_judged(
        MathReward(unreadable="as_text"),
        column(name)[::stride],
        right=lambda answer: rf"so \boxed{{{final(str(answer))}}}",
        wrong=lambda answer: rf"so \boxed{{{final(str(answer))}1}}",
    )


def test_some_gsm8k_answers():
    gsm8k(stride=50)


@pytest.mark.slow
def test_all_gsm8k_answers():
    gsm8k(stride=1)
