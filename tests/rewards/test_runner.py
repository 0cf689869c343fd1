"""Scoring with several functions at once."""

import math
import time
from fractions import Fraction
from multiprocessing.reduction import ForkingPickler

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgrpo_lightning.rewards import RewardSpec
from lgrpo_lightning.rewards.runner.scoring import Scores, gather
from lgrpo_lightning.rewards.runner.table import weighted_total

NAN = pytest.approx(math.nan, nan_ok=True)


def test_table_of_several_functions(make_runner, spec, score):
    runner = make_runner(
        spec("lengths", weight=0.5),
        "odd_only",
        spec("does_not_apply", weight=9.0),
        spec("Scaled", arguments={"factor": 10}, weight=-1.0, name="ten"),
    )
    assert runner.names == ["lengths", "odd_only", "does_not_apply", "ten"]
    assert runner.weights == [0.5, 1.0, 9.0, -1.0]
    table = score(runner, ["1", "22", "333"])
    assert table.per_function == {
        "lengths": [1.0, 2.0, 3.0],
        "odd_only": [1.0, NAN, 333.0],
        "does_not_apply": [NAN, NAN, NAN],
        "ten": [10.0, 20.0, 30.0],
    }
    assert table.total == [0.5 + 1 - 10, 1.0 - 20, 1.5 + 333 - 30]
    assert table.errors == dict.fromkeys(runner.names, 0)


def test_total_is_nan_where_nothing_applies(make_runner, spec, score):
    runner = make_runner("odd_only", "does_not_apply", spec("lengths", weight=0))
    assert score(runner, ["1", "2"]).total == [1.0, NAN]  # weight 0 records only


def test_empty_batch(make_runner, score):
    table = score(make_runner("lengths", "number"), [])
    assert (table.per_function, table.total) == ({"lengths": [], "number": []}, [])


def test_conversational_completions(make_runner, score):
    assert score(make_runner("lengths"), [[{"role": "assistant", "content": "four"}]]).total == [4]


def test_async_function_and_async_class(make_runner, score):
    runner = make_runner("sleeps", "AsyncClass")
    start = time.perf_counter()
    assert score(runner, ["1", "2", "3", "4"]).per_function["sleeps"] == [1, 2, 3, 4]
    assert time.perf_counter() - start < 0.7  # not one after the other
    assert score(runner, ["1"]).per_function["AsyncClass"] == [1.0]  # the same loop again


def test_functions_get_the_arguments_they_name(make_runner, score):
    runner = make_runner("tokens", "only_answers")
    table = score(runner, ["a", "b"], answer=["a", "a"], other=["x", "y"])
    assert table.per_function == {"tokens": [2.0, 2.0], "only_answers": [1.0, 0.0]}


def test_functions_run_at_the_same_time(make_runner, score):
    runner = make_runner("slow", "slower")
    started = score(runner, ["x"]).per_function
    assert abs(started["slow"][0] - started["slower"][0]) < 0.4  # the time that each takes


def test_worker_is_kept_between_calls(make_runner, score):
    runner = make_runner("counts_calls")
    assert [score(runner, ["x"]).total for _ in range(3)] == [[1.0], [2.0], [3.0]]


def test_submit_leaves_time_for_other_work(make_runner):
    runner = make_runner("slow", "number")
    handles = [runner.submit(["?"], [str(n)], [[1]], {}) for n in range(2)]
    assert not handles[0].done()
    tables = [handle.result() for handle in handles]
    assert [table.per_function["number"] for table in tables] == [[0.0], [1.0]]
    assert handles[0].done()
    assert handles[0].result() == tables[0]  # asked again


def test_completions_are_dealt_to_several_workers_in_order(make_runner, score):
    runner = make_runner("number", "process_ids_each", "process_ids", workers_per_function=3)
    table = score(runner, [str(n) for n in range(50)])
    assert table.per_function["number"] == list(range(50))
    assert len(set(table.per_function["process_ids_each"])) == 3
    assert len(set(table.per_function["process_ids"])) == 1  # it needs the whole batch
    assert score(runner, ["7"]).per_function["number"] == [7.0]


def test_arguments_of_unequal_length_are_named(make_runner):
    runner = make_runner("lengths")
    with pytest.raises(ValueError, match="'prompts' has 1 entries for 2 completions"):
        runner.score(["?"], ["a", "b"], [[1], [1]], {})
    with pytest.raises(ValueError, match="'answer' has 3 entries for 2 completions"):
        runner.score(["?", "?"], ["a", "b"], [[1], [1]], {"answer": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"\['completions'\] .*rename"):
        runner.score(["?"], ["a"], [[1]], {"completions": ["b"]})


def test_columns_must_be_plain_data(make_runner, score):
    runner = make_runner("lengths")
    with pytest.raises(ValueError, match=r"'lengths'.*can't be sent.*plain data"):
        score(runner, ["a"], made=[lambda: 1])
    assert score(runner, ["a"]).total == [1.0]


def test_columns_are_pickled_plainly(make_runner, score, monkeypatch):
    # Torch registers a pickler of its own for tensors, which hands over shared memory.
    reducers = {**ForkingPickler._extra_reducers, Fraction: lambda value: 1 / 0}
    monkeypatch.setattr(ForkingPickler, "_extra_reducers", reducers)
    assert score(make_runner("lengths"), ["a"], share=[Fraction(1, 2)]).total == [1.0]


@pytest.mark.slow
def test_tensors_reach_the_worker(make_runner, score):
    import torch.multiprocessing

    assert score(make_runner("lengths"), ["a"], image=[torch.ones(3)]).total == [1.0]


def test_missing_column_is_named(make_runner, score):
    runner = make_runner("needs_answer")
    message = (
        "reward 'needs_answer' needs the column 'answer'; the data set has 'question', 'solution'; "
        "map it with data.columns"
    )
    with pytest.raises(ValueError, match=message):
        runner.check({"question": ["?"], "solution": ["4"]})
    with pytest.raises(ValueError, match=message):
        score(runner, ["a"], question=["?"], solution=["4"])
    runner.check({"answer": ["4"]})


def test_references_are_checked_before_training(make_runner):
    runner = make_runner("checked", "lengths", "lgrpo_lightning.rewards.gsm8k_reward")
    runner.check({"answer": [1, 2, 3] * 3000})
    with pytest.raises(ValueError, match="reward 'checked': row 1: -2 is negative"):
        runner.check({"answer": [1, -2]})
    with pytest.raises(ValueError, match=r"'gsm8k_reward': column 'answer', row 1: .*0\.1\.2"):
        make_runner("lgrpo_lightning.rewards.gsm8k_reward").check({"answer": ["1", "0.1.2"]})


def test_shipped_rewards_say_which_column_they_need(make_runner):
    columns = {"solution": [r"\boxed{5}"], "question": ["?"]}
    runner = make_runner("lgrpo_lightning.rewards.math_reward")
    runner.check(columns)
    with pytest.raises(ValueError, match=r"'answer' or 'solution'.*map it with data.columns"):
        runner.check({"question": ["?"]})
    with pytest.raises(ValueError, match="'gsm8k_reward' needs the column 'answer'"):
        make_runner("lgrpo_lightning.rewards.gsm8k_reward").check(columns)


def test_short_completions_are_scored_in_milliseconds(make_runner):
    runner = make_runner("lgrpo_lightning.rewards.boxed_match_reward")
    completions = [rf"The answer is \boxed{{{n}}}." for n in range(256)]
    ids, answers = [[1] * 20] * 256, [str(n) for n in range(256)]
    seconds = []
    for _ in range(30):
        start = time.perf_counter()
        table = runner.score(["?"] * 256, completions, ids, {"answer": answers})
        seconds.append(time.perf_counter() - start)
    assert table.total == [1.0] * 256
    assert min(seconds) < 0.02  # 3 ms on a free machine


@given(values=st.lists(st.none() | st.floats(-9, 9), max_size=30), workers=st.integers(1, 5))
def test_gather_undoes_the_dealing(values, workers):
    dealt = [Scores(values[first::workers], []) for first in range(workers)]
    assert gather(dealt, len(values)).values == values


@given(st.lists(st.tuples(*[st.just(math.nan) | st.floats(-9, 9)] * 3), max_size=10))
def test_total_is_the_weighted_sum_of_what_applies(rows):
    weights = {"a": 1.0, "b": -0.5, "c": 0.0}
    columns = {name: [row[i] for row in rows] for i, name in enumerate(weights)}
    for row, total in zip(rows, weighted_total(columns, weights, len(rows)), strict=True):
        terms = [w * r for w, r in zip(weights.values(), row, strict=True) if w and r == r]
        assert total == (pytest.approx(sum(terms)) if terms else NAN)


@pytest.mark.slow
def test_trl_rewards_work_unchanged(make_runner):
    runner = make_runner(
        "trl.rewards.accuracy_reward",
        "trl.rewards.think_format_reward",
        RewardSpec(
            "trl.rewards.other_rewards._SoftOverlongPunishment",
            name="overlong",
            arguments={"max_completion_len": 4, "soft_punish_cache": 2},
        ),
    )
    completion = [{"role": "assistant", "content": "<think>so</think>\n$\\boxed{5}$"}]
    table = runner.score(["?"], [completion], [[1, 2, 3]], {"solution": ["$5$"]})
    assert table.per_function == {
        "accuracy_reward": [1.0],
        "think_format_reward": [1.0],
        "overlong": [-0.5],
    }
