"""An answer in the prompt earns nothing, for any of the shipped rewards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgrpo_lightning.rewards import (
    BinaryTreeReward,
    FormatReward,
    LengthPenalty,
    OverlongPenalty,
    boxed_match_reward,
    exact_match_reward,
    gsm8k_reward,
    math_reward,
)

ANSWERED = r"What is 2+2? The answer is 4: \boxed{4} #### 4"


@pytest.mark.parametrize(
    "reward", [exact_match_reward, boxed_match_reward, gsm8k_reward, math_reward]
)
@pytest.mark.parametrize("form", [str, lambda text: [{"role": "user", "content": text}]])
def test_answer_in_the_prompt_counts_nothing(reward, form):
    assert reward([form(ANSWERED), form("4")], ["", "5"], [[], [1]], answer=["4", "4"]) == [0, 0]


@pytest.mark.parametrize(
    "reward",
    [
        exact_match_reward,
        boxed_match_reward,
        gsm8k_reward,
        math_reward,
        FormatReward(".*4.*", mode="search"),
        LengthPenalty(max_tokens=1),
        OverlongPenalty(2, 1),
        BinaryTreeReward("LR", 1, -0.5),
    ],
)
@given(prompt=st.one_of(st.text(), st.just(ANSWERED), st.just("LR")))
def test_rewards_do_not_depend_on_the_prompt(reward, prompt):
    completions = ["RR"] if isinstance(reward, BinaryTreeReward) else [r"\boxed{4}"]
    scored = [reward([p], completions, [[1, 2]], answer=["4"]) for p in (prompt, "?")]
    assert scored[0] == scored[1]
