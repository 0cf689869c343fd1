import copy

import pytest

from lgrpo_lightning.report.trees import parse_tree, read_trees
from tests.report.made_runs import tree_record, write_lines

# The worked example of docs/method.md: six completions, two of them right, y2 and y3 equal.
COMPLETIONS = ["abc■", "abd■", "abd■", "ae■", "fgi■", "fh■"]
REWARDS = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
PLENTY = 10**9


def example(step=1):
    return tree_record([list(text) for text in COMPLETIONS], REWARDS, step)


def test_the_worked_example_keeps_its_steps_sets_and_advantages():
    tree = parse_tree(example())
    steps = [("".join(n["tokens"]), len(n["members"]), n["advantage"]) for n in tree["nodes"]]
    assert steps == [
        ("a", 4, pytest.approx(-0.1613, abs=1e-3)),
        ("b", 3, pytest.approx(0.0, abs=1e-3)),
        ("c■", 1, pytest.approx(1.2907, abs=1e-3)),
        ("d■", 2, pytest.approx(-0.6454, abs=1e-3)),
        ("e■", 1, pytest.approx(-0.6454, abs=1e-3)),
        ("f", 2, pytest.approx(0.3227, abs=1e-3)),
        ("gi■", 1, pytest.approx(1.2907, abs=1e-3)),
        ("h■", 1, pytest.approx(-0.6454, abs=1e-3)),
    ]
    assert [node["parent"] for node in tree["nodes"]] == [None, 0, 1, 1, 0, None, 5, 5]
    assert [leaf["node"] for leaf in tree["leaves"]] == [2, 3, 3, 4, 6, 7]


def test_ids_may_be_any_numbers():
    record = example()
    for node in record["nodes"]:
        node["id"] += 100
        node["parent"] = None if node["parent"] is None else node["parent"] + 100
    for leaf in record["leaves"]:
        leaf["node"] += 100
    assert parse_tree(record) == parse_tree(example())


def test_long_steps_lose_their_middle():
    words = [f"w{place}" for place in range(1000)]
    tree = parse_tree(tree_record([[*words, "a"], [*words, "b"]], [0.0, 1.0]))
    shared = tree["nodes"][0]
    assert shared["tokens"][: tree["head"]] == words[: tree["head"]]
    assert shared["tokens"][-1] == "w999"
    assert len(shared["tokens"]) + shared["omitted"] == 1000


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("step",), None),
        (("leaves",), []),
        (("nodes", 0, "id"), 1),
        (("nodes", 1, "parent"), 7),
        (("nodes", 1, "parent"), [0]),
        (("nodes", 1, "members"), [4]),
        (("nodes", 1, "members"), []),
        (("nodes", 0, "members"), ["a"]),
        (("nodes", 0, "advantage"), float("nan")),
        (("nodes", 0), "node"),
        (("leaves", 0), None),
        (("leaves", 0, "node"), 99),
        (("leaves", 0, "node"), 7),
        (("leaves", 0, "completion"), None),
        (("leaves", 0, "advantage"), "much"),
    ],
)
def test_what_is_no_tree_is_refused(place, value):
    record = copy.deepcopy(example())
    target = record
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises(ValueError, match=r"must|needs"):
        parse_tree(record)


def test_rewards_may_be_unknown_and_completions_empty():
    record = example()
    record["leaves"].append(
        {"completion": 6, "node": None, "reward": None, "advantage": 0.0, "length": 0}
    )
    record["mean_reward"] = None
    tree = parse_tree(record)
    assert tree["mean"] is None
    assert (tree["leaves"][6]["node"], tree["leaves"][6]["reward"]) == (None, None)


def test_trees_of_all_ranks_come_in_order_and_wrong_ones_are_said(tmp_path):
    write_lines(tmp_path / "trees/rank-0.jsonl", [example(1), {"step": 2}, example(3)])
    write_lines(tmp_path / "trees/rank-1.jsonl", [example(2)])
    notes = []
    trees = read_trees(tmp_path, PLENTY, notes)
    assert [tree["step"] for tree in trees] == [1, 2, 3]
    assert notes == ["trees/rank-0.jsonl: line 2 is not a process tree and left out."]


def test_beyond_the_budget_trees_are_sampled_evenly_and_said(tmp_path):
    write_lines(tmp_path / "trees/rank-0.jsonl", [example(step) for step in range(1, 41)])
    notes = []
    trees = read_trees(tmp_path, 10_000, notes)
    assert 2 < len(trees) < 40
    assert (trees[0]["step"], trees[-1]["step"]) == (1, 40)
    assert f"Process trees: {len(trees)} of 40" in notes[0]
