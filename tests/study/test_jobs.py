import json
import multiprocessing
import os
import time
from functools import partial

import pytest

from lgrpo_lightning.study.jobs import Job, run_jobs
from lgrpo_lightning.study.results import ResultFile


def divide(one, other):
    return {"quotient": one / other}


def job(one, other):
    return Job({"one": one, "other": other}, f"{one} by {other}", partial(divide, one, other))


def test_results_come_in_order_and_are_not_made_twice(tmp_path):
    path = tmp_path / "results.jsonl"
    jobs = [job(value, 2) for value in (6, 2, 4)]
    first = run_jobs(jobs, ResultFile(path), workers=2, output=tmp_path)
    assert first == [{"quotient": 3.0}, {"quotient": 1.0}, {"quotient": 2.0}]
    # A result that could not be computed again shows where it comes from.
    ResultFile(path).add({"one": 1, "other": 0}, {"quotient": 99.0})
    again = run_jobs([*jobs, job(1, 0)], ResultFile(path), workers=1, output=tmp_path)
    assert again == [*first, {"quotient": 99.0}]


def test_failure_ends_the_study_and_keeps_what_is_finished(tmp_path):
    path = tmp_path / "results.jsonl"
    with pytest.raises(ZeroDivisionError):
        run_jobs([job(4, 2), job(1, 0)], ResultFile(path), workers=1, output=tmp_path)
    assert ResultFile(path).get({"one": 4, "other": 2}) == {"quotient": 2.0}


def test_unfinished_last_line_is_dropped(tmp_path, caplog):
    path = tmp_path / "results.jsonl"
    ResultFile(path).add({"a": 1}, {"b": 2.0})
    with path.open("a") as file:
        file.write('{"key": {"a": 2}, "resu')
    results = ResultFile(path)
    assert "unfinished" in caplog.text
    assert results.get({"a": 1}) == {"b": 2.0}
    assert results.get({"a": 2}) is None
    results.add({"a": 2}, {"b": 3.0})
    assert [json.loads(line)["result"]["b"] for line in path.read_text().splitlines()] == [2.0, 3.0]


def test_foreign_file_is_refused(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"loss": 1.0}\n')
    with pytest.raises(ValueError, match="line 1"):
        ResultFile(path)


def wait(folder):
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(60)
    return {}


def test_processes_end_with_a_killed_study(tmp_path):
    jobs = [Job({}, "waiting", partial(wait, tmp_path))]
    results = ResultFile(tmp_path / "results.jsonl")
    study = multiprocessing.get_context("fork").Process(
        target=run_jobs, args=(jobs, results, 1, tmp_path)
    )
    study.start()
    while not (tmp_path / "pid").exists():
        time.sleep(0.05)
    worker = int((tmp_path / "pid").read_text())
    study.kill()
    study.join()
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the process still waits")
