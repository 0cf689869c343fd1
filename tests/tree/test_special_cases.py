"""Shapes of groups worth a name, with the answer written down, and inputs that are refused."""

import pytest
import torch

from lgrpo_lightning.tree import ProcessTree

EOS = 2


def tree_of(*completions: list[int], pad: int = 0) -> ProcessTree:
    """The tree of one group."""
    length = max(map(len, completions))
    ids = torch.tensor([[[*tokens, *[pad] * (length - len(tokens))] for tokens in completions]])
    mask = torch.tensor([[[t < len(tokens) for t in range(length)] for tokens in completions]])
    return ProcessTree.from_completions(ids, mask)


def test_exact_duplicates_share_a_leaf():
    tree = tree_of([5, 6, EOS], [5, 6, EOS], [5, 7])
    assert tree.set_sizes.tolist() == [[[3, 2, 2], [3, 2, 2], [3, 1, 0]]]
    assert tree.num_nodes.tolist() == [4]
    assert tree.path_depth.tolist() == [[2, 2, 2]]


def test_identical_completions_are_one_path():
    tree = tree_of(*[[5, 6, EOS]] * 4)
    assert tree.set_sizes.eq(4).all()
    assert tree.num_nodes.tolist() == [3]
    assert tree.path_depth.tolist() == [[1] * 4]
    assert tree.intermediate_proportion.tolist() == [[1.0] * 4]


def test_strict_prefix_ends_inside_the_others():
    tree = tree_of([5, 6], [5, 6, 7], [5])
    assert tree.set_sizes.tolist() == [[[3, 2, 0], [3, 2, 1], [3, 0, 0]]]
    assert tree.path_depth.tolist() == [[2, 3, 1]]
    assert tree.order.tolist() == [[2, 0, 1]]


def test_padding_that_looks_like_the_next_token():
    tree = tree_of([5], [5, 7], pad=7)
    assert tree.set_sizes.tolist() == [[[2, 0], [2, 1]]]


def test_end_of_sequence_counts_when_it_is_also_the_pad_id():
    ended, cut = [5, EOS], [5]
    tree = tree_of(ended, ended, cut, pad=EOS)
    assert tree.set_sizes.tolist() == [[[3, 2], [3, 2], [3, 0]]]
    assert tree.intermediate_proportion.tolist() == [[1.0, 1.0, 1.0]]


def test_completions_that_meet_again_after_they_parted_stay_apart():
    assert tree_of([5, 6, 7], [5, 8, 7]).set_sizes.tolist() == [[[2, 1, 1], [2, 1, 1]]]


def test_empty_completions_are_in_no_set():
    tree = tree_of([], [5], [])
    assert tree.set_sizes.tolist() == [[[0], [1], [0]]]
    assert tree.path_depth.tolist() == [[0, 1, 0]]
    assert tree.intermediate_proportion.tolist() == [[0.0, 0.0, 0.0]]
    assert tree.step_means(torch.tensor([[9.0, 1.0, 9.0]])).tolist() == [[[0.0], [1.0], [0.0]]]


@pytest.mark.parametrize("length", [0, 3])
def test_groups_without_any_token(length):
    ids = torch.full((2, 3, length), 7)
    tree = ProcessTree.from_completions(ids, torch.zeros_like(ids, dtype=torch.bool))
    assert tree.set_sizes.shape == (2, 3, length)
    assert not tree.set_sizes.any()
    assert tree.order.tolist() == [[0, 1, 2]] * 2
    assert tree.num_nodes.tolist() == [0, 0]
    assert tree.path_depth.tolist() == [[0] * 3] * 2
    assert tree.representatives.shape == tree.weights().shape == (2, 3, length)
    assert not tree.step_means(torch.ones(2, 3)).any()


def test_a_single_completion_is_a_path():
    tree = tree_of([5, 6, 5])
    assert tree.set_sizes.tolist() == [[[1, 1, 1]]]
    assert tree.overlaps.tolist() == [[[3]]]


def test_nan_stays_in_the_sets_that_hold_it():
    means = tree_of([5, 6], [5, 7], [8]).step_means(torch.tensor([[1.0, torch.nan, 3.0]]))
    expected = torch.tensor([[[torch.nan, 1.0], [torch.nan, torch.nan], [3.0, 0.0]]])
    torch.testing.assert_close(means, expected, equal_nan=True)


def test_step_means_carry_the_gradient_of_their_values():
    values = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    tree_of([5, 6], [5, 7], [8]).step_means(values)[0, 0, 0].backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.5, 0.5, 0.0]]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_any_integer_type_of_ids(dtype):
    ids = torch.randint(0, 3, (2, 4, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(6) < torch.tensor([[6, 2, 0, 5], [1, 4, 6, 6]]).unsqueeze(-1)
    expected = ProcessTree.from_completions(ids, mask)
    tree = ProcessTree.from_completions(ids.to(dtype), mask.long())
    assert torch.equal(tree.set_sizes, expected.set_sizes)
    assert torch.equal(tree.order, expected.order)


def test_views_that_are_not_contiguous():
    ids = torch.randint(0, 3, (6, 4, 2), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([[6, 2], [0, 5], [1, 4], [6, 6]])
    mask = torch.arange(6).view(-1, 1, 1) < lengths
    views = ids.permute(2, 1, 0), mask.permute(2, 1, 0)
    assert not views[0].is_contiguous()
    tree = ProcessTree.from_completions(*views)
    expected = ProcessTree.from_completions(*(view.contiguous() for view in views))
    for name in ("set_sizes", "overlaps", "order", "representatives"):
        assert torch.equal(getattr(tree, name), getattr(expected, name)), name


def test_inputs_are_left_as_they_are():
    ids = torch.randint(0, 3, (2, 4, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids, dtype=torch.bool)
    before = ids.clone()
    ProcessTree.from_completions(ids, mask)
    assert torch.equal(ids, before)
    assert mask.all()


def test_shapes_are_named_when_refused():
    with pytest.raises(ValueError, match=r"\[B, G, T\], got \[2, 4\] and \[2, 4\]"):
        ProcessTree.from_completions(torch.zeros(2, 4), torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"\[1, 2, 4\] and \[1, 2, 3\]"):
        ProcessTree.from_completions(torch.zeros(1, 2, 4), torch.ones(1, 2, 3))


@pytest.mark.parametrize("row", [[False, True, True], [True, False, True]])
def test_masks_that_are_not_right_padded_are_refused(row):
    mask = torch.tensor([[[True, True, False], row]])
    with pytest.raises(ValueError, match="right-padded"):
        ProcessTree.from_completions(torch.zeros(1, 2, 3, dtype=torch.long), mask)


def test_step_means_refuses_another_shape():
    with pytest.raises(ValueError, match=r"\[B, G\] = \[1, 2\], got \[2\]"):
        tree_of([5], [6]).step_means(torch.ones(2))
