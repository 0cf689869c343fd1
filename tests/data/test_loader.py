import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lgrpo_lightning.data import PromptLoader, PromptSet

PROMPTS = PromptSet.load([{"prompt": f"prompt {i}", "answer": i} for i in range(11)])


def signature(batch):
    return batch.epoch, batch.rollout, batch.step, batch.steps, tuple(batch.indices)


def run(loader, epochs, start=0):
    dealt = []
    for epoch in range(start, epochs):
        loader.sampler.set_epoch(epoch)
        dealt += [signature(batch) for batch in loader]
    return dealt


def test_every_rollout_is_dealt_once_per_step():
    loader = PromptLoader(PROMPTS, 4, 3, shuffle=False)
    assert len(loader) == 6
    assert [signature(batch) for batch in loader] == [
        (0, rollout, step, 3, tuple(range(4 * rollout, 4 * rollout + 4)))
        for rollout in range(2)
        for step in range(3)
    ]


def test_a_batch_carries_what_belongs_to_its_prompts():
    (batch, *_) = PromptLoader(PROMPTS, 4, seed=5)
    assert batch.prompts == [f"prompt {i}" for i in batch.indices]
    assert batch.columns == {"answer": batch.indices}
    assert batch.sources == ["memory"] * 4


def test_epochs_have_different_orders_and_can_be_repeated():
    loader = PromptLoader(PROMPTS, 4)
    first, second = run(loader, 1), run(loader, 2, start=1)
    assert [s[4] for s in first] != [s[4] for s in second]
    assert run(loader, 1) == first


def test_an_abandoned_iteration_leaves_nothing_behind():
    loader = PromptLoader(PROMPTS, 4, 2)
    whole = run(loader, 1)
    next(iter(loader))
    assert run(loader, 1) == whole


def test_iterators_that_nobody_asks_change_nothing():
    loader = PromptLoader(PROMPTS, 4, 2)
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "position": 3})
    iter(loader), iter(loader)
    loader.sampler.set_epoch(1)
    assert len(list(loader)) == 1


@given(steps=st.integers(1, 4), cut=st.integers(0, 30), world=st.sampled_from([1, 2]))
def test_a_resumed_loader_deals_what_remained(steps, cut, world):
    def make():
        return PromptLoader(PROMPTS, 4 // world, steps, seed=3, rank=world - 1, world_size=world)

    whole = run(make(), 4)
    cut = min(cut, len(whole) - 1)
    first, dealt, state = make(), [], make().state_dict()
    for epoch in range(4):
        first.sampler.set_epoch(epoch)
        for batch in first:
            if len(dealt) == cut:
                break
            dealt.append(signature(batch))
            state = first.state_dict()
        if len(dealt) == cut:
            break
    second = make()
    second.load_state_dict(state)
    assert dealt + run(second, 4, start=state["epoch"]) == whole


def test_the_state_is_plain_and_the_same_on_all_ranks(tmp_path):
    loaders = [PromptLoader(PROMPTS, 2, 2, rank=rank, world_size=2) for rank in range(2)]
    for loader in loaders:
        iterator = iter(loader)
        next(iterator), next(iterator), next(iterator)
    states = [loader.state_dict() for loader in loaders]
    assert states[0] == states[1]
    assert states[0]["position"] == 3
    assert all(type(value) is int for value in states[0].values())
    torch.save(states[0], tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == states[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": PromptSet.load([{"prompt": str(i)} for i in range(12)])}, "prompts was 11"),
        ({"prompts_per_batch": 2}, "prompts_per_rollout was 4 and is 2"),
        ({"world_size": 2}, "prompts_per_rollout was 4 and is 8"),
        ({"steps_per_batch": 3}, "steps_per_rollout was 2 and is 3"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"shuffle": False}, "shuffle was 1 and is 0"),
    ],
)
def test_a_state_of_other_settings_is_refused(options, message):
    settings = {"dataset": PROMPTS, "prompts_per_batch": 4, "steps_per_batch": 2}
    state = PromptLoader(**settings).state_dict()
    with pytest.raises(ValueError, match=message):
        PromptLoader(**{**settings, **options}).load_state_dict(state)


def test_the_same_rollouts_on_more_ranks_can_be_resumed():
    state = PromptLoader(PROMPTS, 4, 2).state_dict()
    PromptLoader(PROMPTS, 2, 2, rank=1, world_size=2).load_state_dict(state)


def test_steps_below_one_are_refused():
    with pytest.raises(ValueError, match="steps_per_batch is 0"):
        PromptLoader(PROMPTS, 4, 0)
