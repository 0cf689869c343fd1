import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrpo_lightning.schedule import RolloutSchedule

sizes = st.integers(1, 6)


@settings(deadline=None)
@given(micro_batches=sizes, size=sizes, group=st.integers(2, 6), iterations=sizes, data=st.data())
def test_training_steps_fill_the_rollout(micro_batches, size, group, iterations, data):
    prompts = micro_batches * size  # so that many things divide
    divisors = [d for d in range(1, prompts * group + 1) if prompts * group % d == 0]
    micro = data.draw(st.sampled_from([None, *divisors]))
    number = prompts * group // (micro or prompts * group)
    accumulate = data.draw(st.sampled_from([d for d in range(1, number + 1) if number % d == 0]))
    schedule = RolloutSchedule(prompts, group, micro, iterations, accumulate)
    assert schedule.num_micro_batches == number
    assert schedule.num_steps == number * iterations
    assert schedule.num_steps % accumulate == 0  # no optimizer step is shared by two rollouts
    assert schedule.on_policy == (schedule.num_steps // accumulate == 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 4, 3), r"micro_batch_size 3 does not divide .* = 8; take one of \[1, 2, 4, 8\]"),
        ((2, 4, 16), "micro_batch_size 16 does not divide"),
        ((2, 4, -2), "micro_batch_size -2 does not divide"),
        ((2, 4, 2, 1, 3), "accumulate_grad_batches 3 does not divide the rollout's 4 micro-batch"),
        # 2 micro-batches × 2 iterations would be enough, but old and new gradients would be mixed.
        ((2, 4, 4, 2, 4), "accumulate_grad_batches 4 does not divide the rollout's 2 micro-batch"),
    ],
)
def test_what_cannot_be_cut_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RolloutSchedule(*arguments)


def test_it_says_what_it_makes_of_a_rollout():
    assert RolloutSchedule(4, 8, 8, 1, 4).describe() == (
        "a rollout is 4 prompts × 8 completions per process, 4 micro-batches × 1 iteration = "
        "4 training steps, 1 optimizer step (on-policy)"
    )
    assert "off-policy after the first" in RolloutSchedule(4, 8, 8, 2, 4).describe()
