"""The record of a rollout: cutting it into micro-batches, and storing it."""

import dataclasses
import io

import pytest
import torch

from lgrpo_lightning.rollout import Completions, Rollout
from lgrpo_lightning.rollout.assemble import GroupRules
from lgrpo_lightning.tree import ProcessTree

LENGTHS = torch.tensor([[3, 1, 5], [2, 4, 4]])


def rollout(micro_batches: list[list[int]] | None = None) -> Rollout:
    """B 2, G 3, T 5; one completion truncated, one reward unknown."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 6, (2, 3, 5), generator=generator)
    mask = torch.arange(5) < LENGTHS.unsqueeze(-1)
    rewards = torch.tensor([[1.0, 0.0, float("nan")], [0.0, 0.5, 1.0]])
    finished = torch.tensor([[True, True, False], [True, True, True]])
    completions = Completions(ids, mask, torch.zeros(ids.shape), finished)
    terms = GroupRules("group-token-mean", 5, "group", mask_truncated=True).apply(
        completions, ProcessTree.from_completions(ids, mask), rewards
    )
    return Rollout(
        epoch=1,
        index=2,
        prompt_ids=torch.tensor([[0, 7], [8, 9]]),
        prompt_mask=torch.tensor([[False, True], [True, True]]),
        completion_ids=ids,
        completion_mask=mask,
        loss_mask=terms.loss_mask,
        sampler_logprobs=torch.rand(ids.shape, generator=generator),
        old_logprobs=torch.rand(ids.shape, generator=generator),
        ref_logprobs=None,
        rewards=rewards,
        reward_breakdown={"first": rewards, "second": rewards * 2},
        advantages=terms.advantages,
        set_sizes=terms.tree.set_sizes,
        denominators=terms.denominators,
        finished=finished,
        micro_batches=torch.tensor(micro_batches or [[0, 1], [2, 3], [4, 5]]),
        prompts=["x", "y"],
        completions=[["a", "b", "c"], ["d", "e", "f"]],
    )


def test_lengths_count_the_sampled_tokens():
    record = rollout()
    out = Completions(
        record.completion_ids, record.completion_mask, record.sampler_logprobs, record.finished
    )
    assert torch.equal(out.lengths, LENGTHS)
    assert record.num_completions == 6


def test_a_micro_batch_is_cut_to_its_longest_completion():
    record = rollout([[1, 3]])
    micro = record.micro_batch(0)
    assert micro.completion_ids.shape == (2, 2)
    assert torch.equal(micro.completion_ids[0], record.completion_ids[0, 1, :2])
    assert torch.equal(micro.completion_ids[1], record.completion_ids[1, 0, :2])
    assert micro.groups.tolist() == [0, 1]
    assert micro.prompts == ["x", "y"]
    assert micro.completions == ["b", "d"]
    assert micro.ref_logprobs is None
    assert micro.reward_breakdown["second"].tolist() == [0.0, 0.0]


def test_micro_batches_make_up_the_rollout():
    record = rollout()
    parts = [record.micro_batch(step) for step in (3, 4, 5)]  # of the second iteration
    for name in ("advantages", "denominators", "rewards", "finished"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined.nan_to_num(-9), getattr(record, name).flatten().nan_to_num(-9))
    assert [text for part in parts for text in part.completions] == list("abcdef")
    assert sum(int(part.loss_mask.sum()) for part in parts) == int(record.loss_mask.sum())


def test_what_callbacks_read():
    micro = rollout([[2, 4]]).micro_batch(0)
    seen = micro.observables()
    assert seen["truncated"].tolist() == [True, False]
    assert seen["lengths"].tolist() == [5, 4]
    assert seen["mask"].sum(-1).tolist() == [0, 4]  # a truncated completion carries no loss
    assert seen["group"].tolist() == [0, 1]
    assert (seen["set_sizes"] > 0).equal(seen["mask"])


def test_a_stored_rollout_is_plain_and_complete():
    record = rollout()
    file = io.BytesIO()
    torch.save(record.state_dict(), file)
    file.seek(0)
    loaded = Rollout.from_state_dict(torch.load(file, weights_only=True), torch.device("cpu"))
    for item in dataclasses.fields(Rollout):
        expected, value = getattr(record, item.name), getattr(loaded, item.name)
        if isinstance(expected, torch.Tensor) or item.name == "reward_breakdown":
            torch.testing.assert_close(value, expected, equal_nan=True, atol=0, rtol=0)
        else:
            assert value == expected


def test_the_record_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        rollout().epoch = 3
