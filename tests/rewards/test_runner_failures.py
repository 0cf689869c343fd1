"""Functions that raise, hang, die or return nonsense."""

import logging
import math
import os
import signal
import time

import pytest

from lgrpo_lightning.rewards import RewardError

NAN = pytest.approx(math.nan, nan_ok=True)
LIMIT = 0.5  # seconds


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "raises",
            r"(?s)'raises' failed: Traceback.*in raises.*KeyError: 'no such thing'.*on_error",
        ),
        ("exits", "SystemExit: I am leaving"),
        ("dies", "its worker ended with exit code 3"),
        ("killed", r"signal 9 \(.*perhaps for want of memory"),
        ("segfaults", r"its worker ended by signal 11 \("),
    ],
)
def test_failures_are_raised_or_skipped(make_runner, score, name, message):
    runner = make_runner(name)
    for _ in range(2):  # the next call finds a worker again
        with pytest.raises(RewardError, match=message):
            score(runner, ["a", "b"])
    table = score(make_runner(name, "lengths", on_error="skip"), ["a", "b"])
    assert table.per_function == {name: [NAN, NAN], "lengths": [1.0, 1.0]}
    assert table.total == [1.0, 1.0]
    assert table.errors == {name: 1, "lengths": 0}


@pytest.mark.parametrize(
    ("name", "where"),
    [("ignores_signals", "in ignores_signals"), ("backtracks", "in backtracks")],
)
def test_time_limit_holds_for_code_that_nothing_can_stop(make_runner, score, name, where):
    runner = make_runner(name, time_limit=LIMIT)
    start = time.perf_counter()
    with pytest.raises(
        RewardError, match=f"(?s)longer than its time limit, 0.5 s.*{where}"
    ) as info:
        score(runner, ["a"])
    assert time.perf_counter() - start < LIMIT + 1.5
    assert "_end_with_parent" not in str(info.value)
    assert "worker.py" not in str(info.value)


def test_time_limit_holds_for_a_worker_that_is_stopped(make_runner, score):
    start = time.perf_counter()
    with pytest.raises(RewardError, match="longer than its time limit"):
        score(make_runner("stops", time_limit=LIMIT), ["a"])
    assert time.perf_counter() - start < LIMIT + 2.0


def test_worker_is_replaced_after_a_hang(make_runner, score):
    runner = make_runner("hangs_if_told", on_error="skip", time_limit=LIMIT)
    assert score(runner, ["a", "b"]).total == [1.0, 1.0]
    table = score(runner, ["a", "hang"])
    assert table.total == [NAN, NAN]
    assert table.errors == {"hangs_if_told": 1}
    assert score(runner, ["a", "b"]).total == [1.0, 1.0]


def test_worker_that_died_while_idle_is_replaced(make_runner, score):
    runner = make_runner("process_ids")
    first = score(runner, ["a"]).total[0]
    os.kill(int(first), signal.SIGKILL)
    time.sleep(0.05)
    assert score(runner, ["a"]).total[0] != first


def test_worker_that_dies_before_it_looks_at_the_request(make_runner, score, monkeypatch):
    runner = make_runner("culprits", on_error="skip")
    assert score(runner, ["a"] * 9).total == [1.0] * 9  # the worker was last at completion 8
    worker = runner._functions[0].lanes[0].worker
    start = worker.start

    def die_once():
        monkeypatch.setattr(worker, "start", start)
        worker.kill()

    monkeypatch.setattr(worker, "start", die_once)
    table = score(runner, ["a", "a"])
    assert table.total == [NAN, 1.0]
    assert table.errors == {"culprits": 1}


@pytest.mark.parametrize(("workers", "on_error"), [(1, "raise"), (3, "skip")])
def test_only_the_completions_that_hang_are_given_up(make_runner, score, workers, on_error):
    runner = make_runner(
        "culprits", on_error=on_error, time_limit=LIMIT, workers_per_function=workers
    )
    completions = ["a"] * 40
    completions[3] = completions[17] = "hang"
    table = score(runner, completions)
    assert [i for i, reward in enumerate(table.total) if math.isnan(reward)] == [3, 17]
    assert sum(reward for reward in table.total if reward == 1.0) == 38
    assert table.errors == {"culprits": 2}
    assert score(runner, ["a"]).errors == {"culprits": 0}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("die", "at completion 2: its worker ended with exit code 3"),
        ("raise", "(?s)at completion 2: .*culprit"),
    ],
)
def test_only_the_completions_that_fail_are_skipped(make_runner, score, what, message):
    completions = ["a", "b", what, "c", what]
    table = score(make_runner("culprits", on_error="skip"), completions)
    assert table.total == [1.0, 1.0, NAN, 1.0, NAN]
    assert table.errors == {"culprits": 2}
    for workers in (1, 2):
        with pytest.raises(RewardError, match=message):
            score(make_runner("culprits", workers_per_function=workers), completions)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_nonsense_is_refused_in_both_modes(make_runner, score, on_error):
    runner = make_runner("returns", "culprits", on_error=on_error)
    for result, message in [
        ("[1.0]", "'returns': it returned 1 rewards for 2 completions"),
        ("'ab'", "'returns': it returned 'ab'"),
        ("[1.0, [2.0]]", r"'returns': its reward 1 is \[2.0\]"),
        ("[float('nan'), 1.0]", "'returns': its reward 0 is nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            score(runner, ["a", "b"], result=[result] * 2)
    with pytest.raises(ValueError, match="'culprits' at completion 1: its reward is nan"):
        score(runner, ["a", "nan"], result=["[1, 1]"] * 2)
    table = score(runner, ["a", "b"], result=["np.array([True, False])"] * 2)
    assert table.per_function["returns"] == [1.0, 0.0]


def test_skipped_calls_are_logged(make_runner, score, caplog):
    score(make_runner("raises", on_error="skip"), ["a"])
    assert "reward 'raises': 1 calls were given up" in caplog.text
    assert "KeyError: 'no such thing'" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        score(make_runner("culprits", time_limit=LIMIT), ["a", "hang"])
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "at completion 1" in caplog.text


def test_reference_that_turns_up_in_training_is_an_error(make_runner, score):
    runner = make_runner("lgrpo_lightning.rewards.gsm8k_reward")
    with pytest.raises(RewardError, match=r"(?s)gsm8k_reward.*'many' has no '#### N'"):
        score(runner, ["#### 4"], answer=["many"])


def test_endless_sums_cost_only_their_own_reward(make_runner, score):
    runner = make_runner("lgrpo_lightning.rewards.math_reward", time_limit=1.0)
    table = score(runner, [r"\boxed{9^{9^{9^9}}}", r"\boxed{5}"], answer=["5", "5"])
    assert table.total == [NAN, 1.0]
    assert table.errors == {"math_reward": 1}


def test_check_that_fails_is_an_error_with_its_traceback(make_runner):
    with pytest.raises(RewardError, match=r"(?s)'broken_check' could not check.*in _broken_check"):
        make_runner("broken_check").check({"answer": [1]})


def test_function_that_cannot_be_loaded_for_death(tmp_path, make_runner):
    (tmp_path / "deadly.py").write_text("import os\nos._exit(4)\n")
    with pytest.raises(RewardError, match="could not be loaded: its worker ended with exit code 4"):
        make_runner(f"{tmp_path}/deadly.py:f")
