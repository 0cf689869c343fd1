"""Cutting rollouts into balanced micro-batches."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lgrpo_lightning.tree import ProcessTree
from lgrpo_lightning.tree.micro_batches import balanced_micro_batches, deal_groups


def random_tree(groups, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 2, (groups, size, 6), generator=generator)
    lengths = torch.randint(0, 7, (groups, size, 1), generator=generator)
    return ProcessTree.from_completions(ids, torch.arange(6) < lengths)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 50), st.data())
def test_every_completion_once_in_equal_parts(groups, size, seed, data):
    total = groups * size
    count = data.draw(st.sampled_from([n for n in range(1, total + 1) if total % n == 0]))
    parts = balanced_micro_batches(random_tree(groups, size, seed), torch.ones(groups), count)
    assert [len(part) for part in parts] == [total // count] * count
    assert sorted(torch.cat(parts).tolist()) == list(range(total))
    for part in parts:
        numbers = (part // size).tolist()
        assert len({*numbers}) == 1 + sum(a != b for a, b in itertools.pairwise(numbers))


def test_whole_groups_are_balanced_by_unique_tokens():
    assert deal_groups([9, 8, 2, 1], 2) == [[0, 3], [1, 2]]
    assert deal_groups([1, 10, 1, 10, 1, 10], 3) == [[0, 1], [2, 3], [4, 5]]


def test_parts_of_a_group_are_cut_between_branches():
    ids = torch.tensor([[[1, 1], [2, 1], [1, 2], [2, 2]]])
    tree = ProcessTree.from_completions(ids, torch.ones_like(ids, dtype=torch.bool))
    parts = balanced_micro_batches(tree, torch.tensor([3]), 2)
    assert [part.tolist() for part in parts] == [[0, 2], [1, 3]]


@pytest.mark.parametrize("count", [0, 4, 7])
def test_unequal_parts_are_refused(count):
    with pytest.raises(ValueError, match=rf"2 prompts x 3 completions .* {count} micro-batches"):
        balanced_micro_batches(random_tree(2, 3), torch.ones(2), count)
