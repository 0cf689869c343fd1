import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrpo_callbacks.tree_groups import GroupCollector
from lgrpo_callbacks.tree_record import tree_record
from tests.callbacks.trees import outputs_of


def record(rows, rewards, advantages):
    [group] = GroupCollector({}).add(outputs_of(rows, rewards, advantages))
    return tree_record(group, step=7, epoch=2)


def test_a_tree_by_hand():
    # a b c      a b
    # a b d e    ├── c
    # a b        └── d e
    # f          f
    rows = [[1, 2, 3], [1, 2, 4, 5], [1, 2], [6]]
    tree = record(rows, [1.0, 0.0, 0.5, 0.0], [2.0, -1.0, 0.5, -1.5])
    assert (tree["step"], tree["epoch"], tree["group_size"]) == (7, 2, 4)
    assert tree["mean_reward"] == 0.375
    assert tree["std_reward"] == pytest.approx(statistics.stdev([1, 0, 0.5, 0]))
    wanted = [
        (0, None, 0, ["1.", "2."], 3, [0, 1, 2], 0.5, 0.5),
        (1, 0, 2, ["3."], 1, [0], 1.0, 2.0),
        (2, 0, 2, ["4.", "5."], 1, [1], 0.0, -1.0),
        (3, None, 0, ["6."], 1, [3], 0.0, -1.5),
    ]
    assert [tuple(node.values()) for node in tree["nodes"]] == wanted
    assert [leaf["node"] for leaf in tree["leaves"]] == [1, 2, 0, 3]
    assert [leaf["completion"] for leaf in tree["leaves"]] == [0, 1, 2, 3]


def test_equal_completions_share_a_leaf_and_empty_ones_have_none():
    tree = record([[1, 2], [1, 2], []], [1.0, math.nan, 0.0], [1.0, 0.0, -1.0])
    assert [node["members"] for node in tree["nodes"]] == [[0, 1]]
    assert tree["nodes"][0]["tokens"] == ["1.", "2."]
    assert tree["nodes"][0]["mean_reward"] == 1.0  # of the rewards that are known
    assert [leaf["node"] for leaf in tree["leaves"]] == [0, 0, None]


def test_a_group_of_one_completion_has_a_tree_too():
    tree = record([[1, 2, 3]], [1.0], [0.0])
    assert [node["tokens"] for node in tree["nodes"]] == [["1.", "2.", "3."]]
    assert math.isnan(tree["std_reward"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 3), max_size=7), min_size=1, max_size=7))
def test_a_tree_has_every_prefix_once_and_every_completion_whole(rows):
    rewards = [float(number % 3) for number in range(len(rows))]
    advantages = [reward - 1 for reward in rewards]
    tree = record(rows, rewards, advantages)
    nodes = tree["nodes"]
    prefixes = {tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)}
    assert sum(len(node["tokens"]) for node in nodes) == len(prefixes)
    for number, node in enumerate(nodes):
        assert node["id"] == number
        assert node["set_size"] == len(node["members"]) > 0
        if node["parent"] is not None:
            parent = nodes[node["parent"]]
            assert parent["id"] < number
            assert node["depth"] == parent["depth"] + len(parent["tokens"])
            assert set(node["members"]) < set(parent["members"])
        assert node["advantage"] == pytest.approx(
            statistics.mean(advantages[member] for member in node["members"])
        )
    for row, leaf in zip(rows, tree["leaves"], strict=True):
        text, at = [], leaf["node"]
        while at is not None:
            text, at = nodes[at]["tokens"] + text, nodes[at]["parent"]
        assert text == [f"{token}." for token in row]


def micro_batches(size, parts, **more):
    """A group of completions without shared tokens in as many micro-batches."""
    whole = outputs_of([[10 + row] for row in range(size)], [0.0] * size, [0.0] * size, **more)
    for rows in torch.arange(size).chunk(parts):
        yield {
            key: value[rows] if isinstance(value, torch.Tensor) else value
            for key, value in whole.items()
        }


def test_a_group_is_whole_with_its_last_completion_and_then_begins_anew():
    collector = GroupCollector({})
    for _ in range(2):  # two iterations over one rollout
        found = [collector.add(part) for part in micro_batches(6, parts=3)]
        assert [len(groups) for groups in found] == [0, 0, 1]
        assert len(found[2][0].completions) == 6
    assert collector.unfinished == {}
    assert collector.end_step() == []


def test_what_came_before_a_checkpoint_is_counted_but_not_shown():
    collector = GroupCollector({})
    parts = list(micro_batches(6, parts=3))
    collector.add(parts[0])
    assert collector.unfinished == {0: 2}
    resumed = GroupCollector(collector.unfinished)
    assert resumed.unfinished == {0: 2}
    assert resumed.add(parts[1]) == resumed.add(parts[2]) == []
    found = [resumed.add(part) for part in parts]
    assert [len(groups) for groups in found] == [0, 0, 1]


def test_two_groups_may_be_interleaved():
    whole = outputs_of([[1], [1], [2], [3]], [0.0, 1.0, 2.0, 1.0], [0.0] * 4, group_size=2)
    whole["group"] = torch.tensor([0, 1, 0, 1])
    groups = GroupCollector({}).add(whole)
    assert [(group.number, group.rewards) for group in groups] == [(0, [0.0, 2.0]), (1, [1.0, 1.0])]
    assert [group.has_zero_variance for group in groups] == [False, True]
    assert [group.is_flat for group in groups] == [False, False]  # as the step's set sizes say
