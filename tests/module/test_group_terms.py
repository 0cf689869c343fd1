"""What the loss takes from whole groups, and what is logged of them, by hand."""

import math

import pytest
import torch

from lgrpo_lightning.rollout.assemble import GroupRules, zero_variance_groups
from lgrpo_lightning.rollout.completions import Completions
from lgrpo_lightning.rollout.statistics import group_deviation, known_total
from lgrpo_lightning.tree import ProcessTree

NAN = math.nan


def completions(lengths, truncated=()):
    """Completions 5 5 5 … of the given lengths, so that all of them share what they can."""
    lengths = torch.tensor(lengths)
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)
    finished = torch.ones_like(lengths, dtype=torch.bool)
    for place in truncated:
        finished[place] = False
    return Completions(5 * mask.long(), mask, torch.zeros(mask.shape), finished)


def apply(
    sampled, rewards, *, mask_truncated=False, scale="group", kind="group-token-mean", **more
):
    rules = GroupRules(kind, 10, scale, mask_truncated)
    tree = ProcessTree.from_completions(sampled.ids, sampled.mask)
    return rules.apply(sampled, tree, torch.tensor(rewards), **more)


def test_truncated_completions_keep_their_tokens_unless_masked():
    sampled = completions([[3, 1], [2, 2]], truncated=[(0, 0)])
    rewards = [[0.0, 1.0], [0.0, 1.0]]
    terms = apply(sampled, rewards)
    assert terms.tree.set_sizes.tolist() == [[[2, 1, 1], [2, 0, 0]], [[2, 2, 0], [2, 2, 0]]]
    assert terms.denominators.tolist() == [[8, 8], [8, 8]]
    masked = apply(sampled, rewards, mask_truncated=True)
    assert masked.tree.set_sizes.tolist() == [[[0, 0, 0], [1, 0, 0]], [[2, 2, 0], [2, 2, 0]]]
    assert masked.denominators.tolist() == [[2, 2], [8, 8]]
    assert torch.equal(masked.advantages, terms.advantages)  # their rewards still count


@pytest.mark.parametrize("rank", [0, 1])
def test_what_spans_groups_spans_processes(rank):
    sampled = [completions([[3, 1]]), completions([[2, 2]])]
    rewards = [[[0.0, 1.0]], [[0.0, 3.0]]]
    mine = {"rank": rank, "gather": lambda value: torch.stack(everyone)}

    everyone = [torch.tensor(part) for part in rewards]
    terms = apply(sampled[rank], rewards[rank], scale="batch", **mine)
    deviation = torch.tensor([0.0, 1.0, 0.0, 3.0]).std() + 1e-4
    expected = torch.tensor([[-0.5, 0.5], [-1.5, 1.5]])[rank] / deviation
    torch.testing.assert_close(terms.advantages, expected.unsqueeze(0))

    everyone = [part.mask.sum().float() for part in sampled]
    terms = apply(sampled[rank], rewards[rank], kind="token-mean", **mine)
    # 8 tokens on 2 processes, over which the gradient is averaged.
    assert terms.denominators.tolist() == [[4, 4]]


def test_groups_that_teach_nothing():
    rewards = [[1.0, 1.0, 1.0], [0.0, 0.0, 1.0], [NAN, 0.5, NAN], [NAN, NAN, NAN], [NAN, 0.0, 1.0]]
    found = zero_variance_groups(torch.tensor(rewards)).tolist()
    assert found == [True, False, True, True, False]


def test_deviations_leave_out_what_is_not_known():
    rewards = torch.tensor([[0.0, 1.0, 2.0], [NAN, 0.0, 1.0], [NAN, NAN, 4.0], [NAN, NAN, NAN]])
    found = group_deviation(rewards)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.5**0.5, 0.0, 0.0]))


def test_totals_leave_out_what_is_not_known():
    total, count = known_total(torch.tensor([[0.5, NAN], [2.0, NAN]]))
    assert (float(total), int(count)) == (2.5, 2)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"aggregation must be one of .* got 'mean'"):
        GroupRules("mean", 10, "group", False)
    with pytest.raises(ValueError, match=r"advantage_scale must be one of .* got 'std'"):
        GroupRules("token-mean", 10, "std", False)
