"""Packing against a slow and obvious trie, for random groups."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrpo_lightning.tree.packing import PackedTrees, pack_trees


@st.composite
def batches(draw):
    """Prompts and groups of different sizes, with few tokens, so that they meet."""
    words = st.lists(st.integers(1, 3), max_size=5)
    groups = draw(st.lists(st.lists(words, min_size=1, max_size=5), min_size=1, max_size=3))
    prompts = [draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)) for _ in groups]
    return prompts, groups


def tensors(prompts, groups):
    """The batch as `pack_trees` takes it."""
    width = max(len(prompt) for prompt in prompts)
    prompt_ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    prompt_mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts])
    rows = [word for group in groups for word in group]
    length = max([len(word) for word in rows] + [1])
    ids = torch.tensor([word + [7] * (length - len(word)) for word in rows])
    mask = torch.tensor([[True] * len(word) + [False] * (length - len(word)) for word in rows])
    numbers = torch.tensor([number for number, group in enumerate(groups) for _ in group])
    return prompt_ids, prompt_mask, ids, mask, numbers


def visible(packed: PackedTrees, row: int, query: int) -> list[int]:
    """The tokens that a query looks at, by the rule of the packing's docstring."""
    ends = packed.ends[row].tolist()
    return [key for key in range(query + 1) if query < ends[key]]


@given(batches(), st.sampled_from([None, 0, 7]))
@settings(max_examples=60, deadline=None)
def test_every_path_is_its_prompt_and_completion(batch, slack):
    prompts, groups = batch
    unique = [len({tuple(w[: t + 1]) for w in words for t in range(len(w))}) for words in groups]
    sizes = [len(prompt) + nodes for prompt, nodes in zip(prompts, unique, strict=True)]
    budget = None if slack is None else max(sizes) + slack
    inputs = tensors(prompts, groups)
    packed = pack_trees(*inputs, max_tokens_per_row=budget)
    width = packed.ids.shape[1]

    assert packed.targets.shape == packed.parents.shape == (sum(unique),)
    assert int((packed.ends > 0).sum()) == sum(sizes)
    assert budget is not None or packed.ids.numel() == sum(sizes)
    assert budget is None or width <= budget
    flat_ids, flat_positions = packed.ids.flatten(), packed.positions.flatten()
    words = [(prompts[n], word) for n, group in enumerate(groups) for word in group]
    for row, (prompt, word) in enumerate(words):
        for t, token in enumerate(word):
            node = packed.nodes[row, t]
            assert packed.targets[node] == token
            parent = int(packed.parents[node])
            sees = visible(packed, parent // width, parent % width)
            seen = [int(packed.ids[parent // width, key]) for key in sees]
            assert seen == prompt + word[:t]
            depths = [int(packed.positions[parent // width, key]) for key in sees]
            assert depths == list(range(len(prompt) + t))
            assert flat_positions[parent] == len(prompt) + t - 1
            assert flat_ids[parent] == (prompt + word[:t])[-1]


@given(batches())
@settings(max_examples=40, deadline=None)
def test_paths_hold_every_node(batch):
    packed = pack_trees(*tensors(*batch))
    flat = packed.ids.flatten()
    total = 0
    for group in packed.groups:
        total += group.prompt_length + group.num_nodes
        paths = group.paths
        assert torch.equal(paths.nodes[paths.firsts], torch.arange(group.num_nodes))
        again = torch.cat([paths.firsts, paths.repeats])
        assert len(again.unique()) == len(again)
        assert len(paths.outputs.unique()) == group.num_nodes
        assert len(paths.nodes) == sum(batch.leaves * batch.length for batch in paths.batches)
        if group.num_nodes:
            assert int(flat[group.node_start : group.node_start + group.num_nodes].min()) > 0
    assert total == packed.ids.numel()


def test_rows_are_filled_to_the_budget():
    inputs = tensors([[1] * 4, [2] * 3, [3] * 2], [[[1, 2], [1, 3]], [[5]], [[4, 4]]])
    packed = pack_trees(*inputs, max_tokens_per_row=8)  # sizes 7, 4, 4
    assert packed.ids.shape == (2, 8)
    assert packed.ids[0].tolist() == [1, 1, 1, 1, 1, 2, 3, 0]
    assert packed.ids[1].tolist() == [2, 2, 2, 5, 3, 3, 4, 4]
    assert packed.ends[0].tolist() == [7, 7, 7, 7, 7, 6, 7, 0]
    assert packed.ends[1].tolist() == [4, 4, 4, 4, 8, 8, 8, 8]
    assert packed.positions[1].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_group_beyond_the_budget_is_refused():
    inputs = tensors([[1, 1]], [[[1, 2, 3], [1, 3]]])
    with pytest.raises(ValueError, match=r"6 unique tokens.*max_tokens_per_row is 5"):
        pack_trees(*inputs, max_tokens_per_row=5)


@pytest.mark.parametrize("mask", [[[True, False]], [[False, False]]])
def test_prompt_must_be_left_padded(mask):
    prompt_ids, _, ids, completion_mask, groups = tensors([[1, 1]], [[[1]]])
    with pytest.raises(ValueError, match="left-padded"):
        pack_trees(prompt_ids, torch.tensor(mask), ids, completion_mask, groups)


def test_mask_that_is_no_tree_is_refused():
    prompt_ids, prompt_mask, ids, mask, groups = tensors([[1, 1]], [[[1, 2]]])
    with pytest.raises(ValueError, match="right-padded"):
        pack_trees(prompt_ids, prompt_mask, ids, mask & (ids == 2), groups)
