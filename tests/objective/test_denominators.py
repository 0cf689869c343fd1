"""Denominators worked out by hand."""

import pytest
import torch

from lgrpo_lightning.objective import row_denominators
from lgrpo_lightning.tree import ProcessTree

# Lengths 3 and 1 in the first group, 0 and 2 in the second: N = 4 and 2; B = 2, G = 2, T = 3.
MASK = torch.arange(3) < torch.tensor([[3, 1], [0, 2]]).unsqueeze(-1)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("group-token-mean", [[4 * 2, 4 * 2], [2 * 2, 2 * 2]]),
        ("token-mean", [[6, 6], [6, 6]]),
        ("seq-mean-token-mean", [[3 * 4, 1 * 4], [1, 2 * 4]]),  # at least 1 for the empty one
        ("seq-mean-token-sum-norm", [[3 * 4, 3 * 4], [3 * 4, 3 * 4]]),
    ],
)
def test_worked_by_hand(aggregation, expected):
    assert row_denominators(MASK, aggregation).tolist() == expected


def test_nodes_are_counted_once():
    """Three completions through one token, two of them the same: 3 nodes; then 5 apart."""
    set_sizes = torch.tensor([[[3, 1], [3, 2], [3, 2]], [[1, 0], [1, 1], [1, 1]]])
    denominators = row_denominators(set_sizes > 0, "group-node-mean", set_sizes=set_sizes)
    assert denominators.tolist() == [[3 * 2] * 3, [5 * 2] * 3]


def test_nodes_are_those_of_the_tree():
    ids = torch.randint(3, (20, 6, 5), generator=torch.Generator().manual_seed(0))
    lengths = torch.randint(6, (20, 6, 1), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(5) < lengths
    tree = ProcessTree.from_completions(ids, mask)
    denominators = row_denominators(mask, "group-node-mean", set_sizes=tree.set_sizes)
    assert torch.equal(denominators[:, 0], tree.num_nodes.clamp(min=1).float() * 20)


def test_norm_length_replaces_the_padded_length():
    denominators = row_denominators(MASK, "seq-mean-token-sum-norm", norm_length=10)
    assert denominators.tolist() == [[40, 40], [40, 40]]


def test_a_group_without_tokens_counts_as_a_group():
    mask = torch.tensor([[[True, True]], [[False, False]]])
    assert row_denominators(mask, "group-token-mean").tolist() == [[4], [1]]


def test_one_group_is_normalised_by_its_token_count():
    """Equation 9 has one group: the mean over groups and the mean over tokens are the same."""
    one = MASK[:1]
    assert row_denominators(one, "group-token-mean").tolist() == [[4, 4]]
    assert row_denominators(one, "token-mean").tolist() == [[4, 4]]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"\[B, G, T\], got \[2, 3\]"):
        row_denominators(MASK[0], "token-mean")
    with pytest.raises(ValueError, match=r"'group-token-mean'.*got 'mean'"):
        row_denominators(MASK, "mean")
    with pytest.raises(ValueError, match="needs set_sizes"):
        row_denominators(MASK, "group-node-mean")
    with pytest.raises(ValueError, match="at least 1 token, got 0"):
        row_denominators(MASK, "seq-mean-token-sum-norm", norm_length=0)
