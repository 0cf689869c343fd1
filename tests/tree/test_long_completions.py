"""Long completions against a trie in plain Python."""

import random

import pytest
import torch

from lgrpo_lightning.tree import ProcessTree


def trie_set_sizes(group: list[list[int]]) -> list[list[int]]:
    """How many completions pass through the node of each token."""
    passing: dict[int, int] = {}
    child: dict[tuple[int, int], int] = {}
    paths = []
    for tokens in group:
        node, path = 0, []
        for token in tokens:
            node = child.setdefault((node, token), len(child) + 1)
            passing[node] = passing.get(node, 0) + 1
            path.append(node)
        paths.append(path)
    return [[passing[node] for node in path] for path in paths]


def branching_group(generator: random.Random, size: int, length: int) -> list[list[int]]:
    """Completions of which each one leaves an earlier one at a random token, some cut short."""
    group = [[generator.randrange(50) for _ in range(length)]]
    while len(group) < size:
        shared = generator.choice(group)[: generator.randrange(length)]
        fresh = [generator.randrange(50) for _ in range(length - len(shared))]
        group.append((shared + fresh)[: generator.randint(len(shared), length)])
    return group


@pytest.mark.parametrize(
    ("groups", "size", "length"), [(1, 16, 4096), (3, 36, 512), (40, 8, 60)], ids=str
)
def test_set_sizes_equal_those_of_a_trie(groups, size, length):
    generator = random.Random(f"{groups}-{size}-{length}")
    batch = [branching_group(generator, size, length) for _ in range(groups)]
    ids = torch.tensor([[row + [0] * (length - len(row)) for row in group] for group in batch])
    lengths = torch.tensor([[len(row) for row in group] for group in batch])
    mask = torch.arange(length) < lengths.unsqueeze(-1)
    tree = ProcessTree.from_completions(ids, mask)
    for b, group in enumerate(batch):
        sizes = trie_set_sizes(group)
        for i, row in enumerate(sizes):
            assert tree.set_sizes[b, i, : len(row)].tolist() == row
        assert tree.num_nodes[b] == round(sum(1 / size for row in sizes for size in row))
    assert not tree.set_sizes[~mask].any()
    assert max(map(max, tree.path_depth.tolist())) > 3  # the groups really branch
