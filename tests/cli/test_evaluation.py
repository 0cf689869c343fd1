"""``lgrpo validate``, ``test`` and ``predict``."""

import json
import shlex

import pytest
import torch

from lgrpo_callbacks import read_jsonl
from lgrpo_lightning.cli.predictions import prediction_rows
from lgrpo_lightning.cli.results import mean_of_sets, report_results, set_results
from lgrpo_lightning.data import PromptBatch
from tests.cli.running import lgrpo


@pytest.mark.parametrize(("command", "prefix"), [("validate", "eval"), ("test", "test")])
def test_figures_are_printed_once_and_written(place, trained, command, prefix):
    checkpoint = trained.run / "checkpoints" / "last.ckpt"
    outcome = lgrpo(command, "-c", "tiny.yaml", "--ckpt_path", checkpoint)
    assert outcome.code == 0, outcome.err
    (run,) = place.glob(f"runs/tiny/*-{command}")
    results = json.loads((run / "results.json").read_text())
    assert (results["command"], results["step"]) == (command, 2)
    assert results["checkpoint"] == str(checkpoint)
    metrics = results["metrics"]
    assert metrics[f"{prefix}/problems"] == 8
    assert results["sets"]["heldout"]["n"] == 8
    assert results["sets"]["heldout"]["mean"] == metrics[f"{prefix}/pass@1"]
    assert results["decoding"]["max_new_tokens"] == 64
    (rows,) = run.glob("evaluations/*-step-00000002.jsonl")
    rewards = [row["rewards"][0] for row in read_jsonl(rows)]
    assert metrics[f"{prefix}/reward"] == sum(rewards) / 8
    assert outcome.out.count(f"{prefix}/reward ") == 1
    assert f"{command}  " in outcome.out
    assert "written to: runs/tiny/" in outcome.out


def test_the_command_that_a_finished_run_prints_works(trained, place):
    said = trained.outcome.out
    command = said[said.index("lgrpo validate") : said.index("  tensorboard")].replace("\\\n", "")
    outcome = lgrpo(*shlex.split(command)[1:])
    assert outcome.code == 0, outcome.err
    (run,) = trained.run.parent.glob("*-validate")  # of the same experiment, beside the run
    assert json.loads((run / "results.json").read_text())["step"] == 2


def test_predictions_are_written_in_the_order_of_the_data(place, trained):
    outcome = lgrpo(
        *("predict", "-c", "tiny.yaml", "--ckpt_path", trained.run / "checkpoints" / "last.ckpt"),
        *("--data.eval_prompts_per_batch", 3, "--model.eval_completions", 2),
        *("--model.evaluation.temperature", 1),
    )
    assert outcome.code == 0, outcome.err
    (path,) = place.glob("runs/tiny/*-predict/predictions.jsonl")
    assert f"predictions: {path.relative_to(place)}" in outcome.out
    rows = read_jsonl(path)
    assert [row["row"] for row in rows] == list(range(8))
    for row in rows:
        assert row["source"] == "heldout"
        assert len(row["completions"]) == len(row["lengths"]) == 2
        right = [f"\\boxed{{{row['columns']['answer']}}}" in text for text in row["completions"]]
        assert all(answer is None or answer.isdigit() for answer in row["answers"])
        assert row["rewards"] == row["reward_breakdown"]["boxed_match_reward"] == right


def test_a_prediction_has_all_that_belongs_to_its_prompt():
    batch = PromptBatch(["a", "b"], {"answer": ["1", "2"]}, ["x", "y"], [5, 6])
    outputs = {
        "prompts": ["a", "b"],
        "completions": [["c"], ["d"]],
        "answers": [["3"], [None]],
        "rewards": torch.tensor([[1.0], [0.0]]),
        "reward_breakdown": {"f": torch.tensor([[1.0], [0.0]])},
        "lengths": torch.tensor([[3], [4]]),
        "truncated": torch.tensor([[False], [True]]),
    }
    assert list(prediction_rows(outputs, batch))[1] == {
        "source": "y",
        "row": 6,
        "prompt": "b",
        "completions": ["d"],
        "rewards": [0.0],
        "reward_breakdown": {"f": [0.0]},
        "lengths": [4],
        "truncated": [True],
        "answers": [None],
        "columns": {"answer": "2"},
    }


METRICS = {
    "eval/reward": float("nan"),
    "eval/source/a/problems": 4.0,
    "eval/source/a/pass@1": 0.5,
    "eval/source/a/pass@1_se": 0.25,
    "eval/source/a/length": 12.0,
    "eval/source/b.c/problems": 2.0,
    "eval/source/b.c/pass@1": 1.0,
    "eval/source/b.c/pass@1_se": 0.0,
    "eval/source/b.c/length": float("nan"),
}


def test_every_set_has_its_number_mean_and_standard_error():
    sets = set_results(METRICS, "eval")
    assert sets["a"] == {
        "n": 4,
        "mean": 0.5,
        "standard_error": 0.25,
        "figures": {"problems": 4.0, "pass@1": 0.5, "pass@1_se": 0.25, "length": 12.0},
    }
    assert (sets["b.c"]["n"], sets["b.c"]["mean"]) == (2, 1.0)
    # Var((a + b) / 2) = (Var(a) + Var(b)) / 4
    assert mean_of_sets(sets) == {"mean": 0.75, "standard_error": (0.25**2 / 4) ** 0.5}
    assert set_results(METRICS, "test") == {}


def test_results_are_strict_json_and_two_tables(tmp_path):
    results = {
        **{"command": "test", "model": "m", "checkpoint": None, "step": 0},
        **{"sets": set_results(METRICS, "eval"), "metrics": METRICS},
    }
    said = report_results(tmp_path, results)
    lines = [line.split() for line in said.splitlines()]
    assert ["a", "4", "0.5000", "±", "0.2500", "12"] in lines
    assert ["mean", "of", "2", "sets", "0.7500", "±", "0.1250"] in lines
    assert ["eval/reward", "nan"] in lines
    assert "checkpoint: none, m as it was loaded" in said
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["metrics"]["eval/reward"] is None
    assert written["sets"]["b.c"]["figures"]["length"] is None
    assert written["mean_of_sets"]["mean"] == 0.75
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]
