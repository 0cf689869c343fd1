"""Decoding in fixed slots: the same completions as row by row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrpo_lightning.policy import completion_logprobs
from lgrpo_lightning.rollout import slot_decoding
from lgrpo_lightning.rollout.support import SHARED_PREFIX_FAMILIES
from tests.rollout.drawing import assert_same, draw
from tests.rollout.tiny import PROMPTS, prompts, tiny_policy


@pytest.mark.parametrize("family", sorted(SHARED_PREFIX_FAMILIES))
def test_every_family_gives_what_row_by_row_gives(family):
    policy = tiny_policy(family)
    for arguments in ({"temperature": 0.0}, {"batch_size": 5}, {"temperature": 0.7, "top_k": 5}):
        assert_same(draw(policy, "slots", **arguments), draw(policy, "rows", **arguments))


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text("abcdef", min_size=1, max_size=9), min_size=1, max_size=5),
    group_size=st.integers(1, 5),
    batch_size=st.integers(1, 26),
    length=st.integers(1, 25),
    stop=st.sampled_from([[], ["ab"], ["b", "cd"]]),
    fewest=st.integers(1, 8),
    shortest=st.sampled_from([1, 4, 64]),
)
def test_slots_change_nothing(texts, group_size, batch_size, length, stop, fewest, shortest):
    policy = tiny_policy()
    arguments = {"max_new_tokens": length, "stop": stop}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slot_decoding, "FEWEST_SLOTS", fewest)
        patch.setattr(slot_decoding, "SHORTEST_SPAN", shortest)
        out = draw(policy, "slots", texts, group_size, batch_size=batch_size, **arguments)
    assert_same(out, draw(policy, "rows", texts, group_size, **arguments))


def test_slots_in_use_become_fewer_and_their_memory_is_read_as_far_as_written(monkeypatch):
    policy = tiny_policy()
    taken = []
    original = slot_decoding.Slots.step

    def step(self, policy, count, span):
        taken.append((count, span))
        original(self, policy, count, span)

    monkeypatch.setattr(slot_decoding.Slots, "step", step)
    monkeypatch.setattr(slot_decoding, "FEWEST_SLOTS", 2)
    monkeypatch.setattr(slot_decoding, "SHORTEST_SPAN", 8)
    out = draw(policy, "slots", ["abc", "abd"], 16, max_new_tokens=30)
    assert taken[0] == (32, 8)
    counts, spans = zip(*taken, strict=True)
    assert list(counts) == sorted(counts, reverse=True)
    assert list(spans) == sorted(spans)
    assert set(counts) <= {32, 16, 8, 4, 2}
    assert set(spans) <= {8, 16, 29}
    assert counts[-1] < 32
    assert len(taken) < out.lengths.max() + slot_decoding.STRIDE


def test_a_step_with_all_rows_ended_changes_no_result():
    # Such a step prepares the capture of a graph.
    policy = tiny_policy()
    results = []

    class Twice(slot_decoding.SlotDecoding):
        def _advance(self):
            plain = self.step

            def step(count, span):
                done = self.slots.done.clone()
                self.slots.done.fill_(True)
                plain(count, span)
                self.slots.done.copy_(done)
                plain(count, span)

            self.step = step
            super()._advance()
            self.step = plain

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lgrpo_lightning.rollout.slot_memory.SlotDecoding", Twice)
        results = draw(policy, "slots", batch_size=5, max_new_tokens=20)
    assert_same(results, draw(policy, "rows", max_new_tokens=20))


def test_under_autocast_the_weights_are_cast_in_every_step():
    policy = tiny_policy()
    with torch.autocast("cpu", torch.bfloat16):
        out = draw(policy, "slots", group_size=6)
        policy.eval()
        tokens = (*prompts(*PROMPTS), out.ids, out.mask)
        expected = completion_logprobs(policy, *tokens, engine="padded")
    assert (out.logprobs - expected)[out.mask].abs().mean() < 0.1
