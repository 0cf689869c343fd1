from itertools import product

import pytest
import torch

from lgrpo_lightning.study.landscape import Trap


def all_paths(trap):
    return torch.tensor(list(product([0, 1], repeat=trap.length))).unsqueeze(0)  # [1, 2^T, T]


def test_contexts_tell_all_prefixes_apart_and_nothing_else():
    paths = all_paths(Trap(3))[0].tolist()
    contexts = Trap(3).contexts(torch.tensor([paths]))[0].tolist()
    named = {
        (tuple(path[:place]), contexts[row][place])
        for row, path in enumerate(paths)
        for place in range(4)
    }
    assert len(named) == len({prefix for prefix, _ in named}) == len({node for _, node in named})
    assert {node for _, node in named} == set(range(Trap(3).num_nodes))


def test_rewards_by_hand():
    trap = Trap(2, easy=0.5)
    ids = torch.tensor([[[0, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 1], [1, 1, 0]]])
    uniform = torch.tensor([[0.49, 0.5, 0.9, 0.0, 0.0]])
    assert trap.rewards(ids, uniform).tolist() == [[1.0, 0.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_chance_of_the_solution_is_that_of_its_path(depth):
    trap = Trap(depth, skill=0.3)
    first = trap.first_logits().sigmoid()
    assert trap.solution_probability(first.unsqueeze(0)).item() == pytest.approx(0.5 * 0.3**depth)
    probabilities = torch.rand(1, trap.num_nodes)
    path = trap.contexts(torch.ones(1, 1, trap.length, dtype=torch.long))[0, 0]
    expected = probabilities[0, path].prod().item()
    assert trap.solution_probability(probabilities).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"depth": 0}, "depth"),
        ({"depth": 1, "easy": 1.0}, "easy"),
        ({"depth": 1, "skill": 0}, "skill"),
    ],
)
def test_bad_arguments_are_refused(arguments, name):
    with pytest.raises(ValueError, match=name):
        Trap(**arguments)
