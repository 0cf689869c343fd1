"""Every statement of the process tree against its definition, written out as loops over sets."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lgrpo_lightning.tree import ProcessTree

Group = list[list[int]]

# Three tokens, 0 being also the usual pad id, so that prefixes are shared and padding looks real.
completions = st.lists(st.integers(0, 2), max_size=6)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Group], torch.Tensor, torch.Tensor]:
    """B groups of G completions, as lists and as right-padded tensors."""
    group_size = draw(st.integers(1, 6))
    group = st.lists(completions, min_size=group_size, max_size=group_size)
    groups = draw(st.lists(group, min_size=1, max_size=3))
    longest = max(len(tokens) for group in groups for tokens in group)
    length = longest + draw(st.integers(0, 2))
    filler = draw(st.integers(0, 3))
    ids = torch.full((len(groups), group_size, length), filler)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for b, group in enumerate(groups):
        for i, tokens in enumerate(group):
            ids[b, i, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
            mask[b, i, : len(tokens)] = True
    return groups, ids, mask


def process_set(group: Group, i: int, t: int) -> frozenset[int]:
    """λ(i,t): the completions that agree with completion i on tokens 0 … t."""
    prefix = group[i][: t + 1]
    return frozenset(j for j, other in enumerate(group) if other[: t + 1] == prefix)


def process_sets(group: Group) -> list[list[frozenset[int]]]:
    return [[process_set(group, i, t) for t in range(len(group[i]))] for i in range(len(group))]


def shared_tokens(first: list[int], second: list[int]) -> int:
    count = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        count += 1
    return count


def padded(rows: list[list[float]], length: int) -> list[list[float]]:
    return [row + [0] * (length - len(row)) for row in rows]


@given(batches())
def test_set_sizes_and_weights(batch):
    groups, ids, mask = batch
    tree = ProcessTree.from_completions(ids, mask)
    weights = tree.weights(torch.float64)
    for b, group in enumerate(groups):
        sizes = [[len(members) for members in row] for row in process_sets(group)]
        assert tree.set_sizes[b].tolist() == padded(sizes, ids.shape[-1])
        inverse = [[1 / size for size in row] for row in sizes]
        assert weights[b].tolist() == padded(inverse, ids.shape[-1])
    assert tree.set_sizes.dtype == torch.long
    assert weights.dtype == torch.float64
    assert tree.weights().dtype == torch.float32


@given(batches(), st.data())
def test_step_means(batch, data):
    groups, ids, mask = batch
    values = st.lists(st.integers(-8, 8), min_size=ids.shape[1], max_size=ids.shape[1])
    rewards = [[v / 4 for v in data.draw(values)] for _ in groups]
    means = ProcessTree.from_completions(ids, mask).step_means(torch.tensor(rewards).double())
    for b, group in enumerate(groups):
        expected = [
            [sum(rewards[b][j] for j in members) / len(members) for members in row]
            for row in process_sets(group)
        ]
        torch.testing.assert_close(means[b], torch.tensor(padded(expected, ids.shape[-1])).double())


@given(batches())
def test_representatives_are_the_first_of_their_set(batch):
    groups, ids, mask = batch
    representatives = ProcessTree.from_completions(ids, mask).representatives
    for b, group in enumerate(groups):
        expected = [[min(members) for members in row] for row in process_sets(group)]
        assert representatives[b].tolist() == padded(expected, ids.shape[-1])


@given(batches())
def test_path_depth_counts_runs_of_one_set(batch):
    groups, ids, mask = batch
    depth = ProcessTree.from_completions(ids, mask).path_depth
    for b, group in enumerate(groups):
        expected = [
            bool(row) + sum(before != after for before, after in pairwise(row))
            for row in process_sets(group)
        ]
        assert depth[b].tolist() == expected


@given(batches())
def test_intermediate_proportion(batch):
    groups, ids, mask = batch
    proportion = ProcessTree.from_completions(ids, mask).intermediate_proportion
    for b, group in enumerate(groups):
        for i, row in enumerate(process_sets(group)):
            expected = sum(len(members) > 1 for members in row) / max(len(row), 1)
            assert proportion[b, i].item() == pytest.approx(expected)


@given(batches())
def test_nodes_are_the_distinct_prefixes_and_the_sum_of_weights(batch):
    groups, ids, mask = batch
    tree = ProcessTree.from_completions(ids, mask)
    prefixes = [{tuple(y[: t + 1]) for y in group for t in range(len(y))} for group in groups]
    assert tree.num_nodes.tolist() == [len(distinct) for distinct in prefixes]
    torch.testing.assert_close(tree.weights(torch.float64).sum((1, 2)), tree.num_nodes.double())


@given(batches())
def test_overlaps_are_shared_leading_tokens(batch):
    groups, ids, mask = batch
    overlaps = ProcessTree.from_completions(ids, mask).overlaps
    for b, group in enumerate(groups):
        expected = [[shared_tokens(first, second) for second in group] for first in group]
        assert overlaps[b].tolist() == expected


@given(batches())
def test_order_is_lexicographic_and_keeps_process_sets_together(batch):
    groups, ids, mask = batch
    order = ProcessTree.from_completions(ids, mask).order
    for b, group in enumerate(groups):
        assert order[b].tolist() == sorted(range(len(group)), key=lambda i, g=group: g[i])
        place = {i: k for k, i in enumerate(order[b].tolist())}
        for members in {members for row in process_sets(group) for members in row}:
            places = sorted(place[i] for i in members)
            assert places == list(range(places[0], places[0] + len(places)))


@given(batches(), st.randoms(use_true_random=False))
def test_permuting_the_completions_permutes_the_tree(batch, random):
    _, ids, mask = batch
    permutation = list(range(ids.shape[1]))
    random.shuffle(permutation)
    tree = ProcessTree.from_completions(ids, mask)
    permuted = ProcessTree.from_completions(ids[:, permutation], mask[:, permutation])
    assert torch.equal(permuted.set_sizes, tree.set_sizes[:, permutation])
    assert torch.equal(permuted.path_depth, tree.path_depth[:, permutation])
    assert torch.equal(permuted.overlaps, tree.overlaps[:, permutation][:, :, permutation])
    assert torch.equal(permuted.num_nodes, tree.num_nodes)


@given(batches(), st.integers(0, 3), st.integers(0, 3))
def test_padding_changes_nothing(batch, extra, filler):
    _, ids, mask = batch
    length = ids.shape[-1]
    tree = ProcessTree.from_completions(ids, mask)
    more = ProcessTree.from_completions(
        torch.nn.functional.pad(ids.masked_fill(~mask, filler), (0, extra), value=filler),
        torch.nn.functional.pad(mask, (0, extra)),
    )
    assert torch.equal(more.set_sizes[..., :length], tree.set_sizes)
    assert not more.set_sizes[..., length:].any()
    for name in ("order", "overlaps", "path_depth", "intermediate_proportion", "num_nodes"):
        assert torch.equal(getattr(more, name), getattr(tree, name)), name


@given(batches())
def test_groups_do_not_see_each_other(batch):
    """A batch is the sum of its groups, also when the groups hold the same completions."""
    _, ids, mask = batch
    twice = ProcessTree.from_completions(torch.cat([ids, ids]), torch.cat([mask, mask]))
    for b in range(len(twice.mask)):
        one = slice(b % len(ids), b % len(ids) + 1)
        alone = ProcessTree.from_completions(ids[one], mask[one])
        for name in ("order", "overlaps", "set_sizes", "representatives", "path_depth"):
            assert torch.equal(getattr(twice, name)[b], getattr(alone, name)[0]), name
