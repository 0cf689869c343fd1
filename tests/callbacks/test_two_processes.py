import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lgrpo_callbacks import read_jsonl
from tests.callbacks.trees import TreePolicy, tree_figures
from tests.callbacks.two_processes import main
from tests.callbacks.weights import RegressionPolicy

SCRIPT = Path(__file__).parent / "two_processes.py"


def run_two_processes(folder):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), "2"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


def seen_by(folder, rank):
    return json.loads((folder / f"rank-{rank}.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    main(folder / "one", 1)
    stderr = run_two_processes(folder / "two")
    return {
        "folder": folder,
        "one": seen_by(folder / "one", 0),
        "two": [seen_by(folder / "two", rank) for rank in range(2)],
        "stderr": stderr,
    }


def test_metrics_are_those_of_one_process(runs):
    assert runs["one"]["metrics"].keys() == {"pass@2", "maj@3", "logprob"}
    for rank in runs["two"]:
        assert rank["metrics"] == pytest.approx(runs["one"]["metrics"], rel=1e-6)


def test_kl_of_every_optimizer_step_is_that_of_one_process(runs):
    assert list(runs["one"]["steps"]) == ["0", "1", "2", "3"]
    for rank in runs["two"]:
        for step, values in runs["one"]["steps"].items():
            assert rank["steps"][step] == pytest.approx(values, rel=1e-4, abs=1e-6)
    assert runs["two"][0]["steps"] == runs["two"][1]["steps"]


def test_trees_of_every_optimizer_step_are_those_of_one_process(runs):
    # Steps of 12 rows end in the middle of groups, which are whole a step later.
    last = {name: value for name, value in runs["one"]["steps"]["3"].items() if "tree" in name}
    module = TreePolicy(rows=36)
    assert last == pytest.approx(tree_figures(module, range(24, 36), [6, 7]), rel=1e-5)
    by_group = {}
    for folder, rank in (("one", 0), ("two", 0), ("two", 1)):
        path = runs["folder"] / folder / "run" / "trees" / f"rank-{rank}.jsonl"
        for tree in read_jsonl(path):
            by_group.setdefault(tree["group"], []).append(tree)
    assert sorted(by_group) == [2, 3, 4, 5]  # step 2
    assert all(one == two for one, two in by_group.values())


def test_the_coefficient_is_steered_alike_on_all_ranks(runs):
    coefficients = [rank["kl_coef"] for rank in runs["two"]]
    assert coefficients == [runs["one"]["kl_coef"]] * 2
    assert coefficients[0] == pytest.approx(0.1 * (1 + 0.2 * 12 / 100) ** 3)


def test_evaluations_are_those_of_one_process_with_uneven_ranks(runs):
    assert [record["step"] for record in runs["one"]["history"]] == [0, 3]
    assert {"eval/pass@3", "eval/maj@3"} <= set(runs["one"]["history"][0]["metrics"])
    assert [rank["history"] for rank in runs["two"]] == [runs["one"]["history"]] * 2
    assert [rank["monitored"] for rank in runs["two"]] == [runs["one"]["monitored"]] * 2


def test_one_file_has_the_problems_of_all_ranks(runs):
    name = "run/evaluations/validation-step-00000003.jsonl"
    one = read_jsonl(runs["folder"] / "one" / name)
    assert read_jsonl(runs["folder"] / "two" / name) == one
    assert len(one) == 7


def test_every_rank_writes_its_own_completions(runs):
    folder = runs["folder"] / "two" / "run" / "completions"
    assert sorted(path.name for path in folder.iterdir()) == ["rank-0.jsonl", "rank-1.jsonl"]
    rows = [row for rank in range(2) for row in read_jsonl(folder / f"rank-{rank}.jsonl")]
    assert {row["rank"] for row in rows} == {0, 1}
    one = read_jsonl(runs["folder"] / "one" / "run" / "completions" / "rank-0.jsonl")
    by_prompt = {(row["step"], row["prompt"]): {**row, "rank": 0} for row in rows}
    assert by_prompt == {(row["step"], row["prompt"]): row for row in one}
    assert len(rows) == len(one)


def test_the_reference_is_that_of_one_process(runs):
    one, two, other = runs["one"]["reference"], *(rank["reference"] for rank in runs["two"])
    assert two == other
    for name, value in one.items():
        torch.testing.assert_close(torch.tensor(two[name]), torch.tensor(value))
    assert one["0.weight"] != RegressionPolicy().policy.state_dict()["0.weight"].tolist()


def test_one_process_exports_what_all_agree_is_best(runs):
    assert [rank["best"][0] for rank in runs["two"]] == [runs["one"]["best"][0]] * 2 == [8] * 2
    assert runs["two"][0]["best"] == runs["two"][1]["best"]
    for name in ("best", "last"):
        one, two = (
            torch.load(runs["folder"] / processes / "sync" / "export" / name / "weights.pt")
            for processes in ("one", "two")
        )
        for key, value in one.items():
            torch.testing.assert_close(two[key], value)


def test_all_ranks_stop_together(runs):
    for rank in [runs["one"], *runs["two"]]:
        assert rank["stopped_at"] == 2
        assert "optimizer step 2" in rank["stop_reason"]


def test_all_ranks_raise_and_name_the_prompt_of_one_of_them(runs):
    for rank in runs["two"]:
        assert "optimizer step 2" in rank["error"]
        assert "'prompt 13' (rank 1)" in rank["error"]


def test_lightning_has_nothing_to_warn_about(runs):
    assert "recommended to use `self.log" not in runs["stderr"]
