"""The benchmark configs: each is read, composed with others, and run on rows of its columns."""

import json

import pytest

from lgrpo_callbacks import read_jsonl
from tests.cli.running import ROOT, command_parser, lgrpo
from tests.configs.small_chat_model import save_small_chat_model

FOLDER = ROOT / "configs" / "benchmarks"
DATA = ROOT.parent / "shared" / "data"
PROBLEM = {"problem": "What is 6 · 7?", "answer": "42"}
ROWS = {  # one row each, in the columns of the published set
    "aime24": {**PROBLEM, "id": 1, "solution": "", "url": ""},
    "amc23": {**PROBLEM, "answer": 42.0, "question": "What is 6 · 7?", "id": 1},
    "math500": {**PROBLEM, "solution": r"\boxed{42}", "level": 1},
    "minerva": {"problem": "?", "solution": r"so \boxed{np.arcsin(10/13)} rad", "idx": 1},
    "olympiadbench": {"question": "?", "answer": "$t(0,4]$", "solution": ["…"]},
    "gsm8k": {"question": "?", "answer": "6 · 7 = 42\n#### 42"},
}


def composed(*names):
    return [part for name in ("protocol", *names) for part in ("-c", str(FOLDER / f"{name}.yaml"))]


def local(name, path):
    """Options that replace a set by a local file."""
    no_name = [f"--data.eval_sets.{name}.name", "null"] if name == "gsm8k" else []
    return [f"--data.eval_sets.{name}.path", str(path), *no_name]


def test_the_folder_holds_these_sets():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {"protocol", *ROWS}


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_sets_of_several_files_are_evaluated_together(command):
    options = [*composed(*ROWS), "--model.policy.path", "some/model"]
    parsed = command_parser().parse_args([command, *options])[command]
    sets = parsed.data.eval_sets
    assert list(sets) == list(ROWS)
    assert sets["minerva"].columns == {"prompt": "problem", "answer": "solution"}
    overridden = command_parser().parse_args([command, *options, *local("gsm8k", "x.jsonl")])
    assert overridden[command].data.eval_sets["gsm8k"].path == "x.jsonl"
    assert overridden[command].data.eval_sets["gsm8k"].split == "test"


def test_they_follow_the_config_of_a_run():
    """What the run trains on stays, what it evaluates on is replaced."""
    run = ["-c", str(ROOT / "configs" / "gsm8k.yaml")]
    parsed = command_parser().parse_args(["validate", *run, *composed("aime24")]).validate
    assert (parsed.data.path, parsed.data.eval_split) == ("openai/gsm8k", None)
    assert list(parsed.data.eval_sets) == ["aime24"]
    assert [spec.function for spec in parsed.model.rewards] == [
        "lgrpo_lightning.rewards.MathReward"
    ]


@pytest.fixture(scope="module")
def small_chat_model(tmp_path_factory):
    return save_small_chat_model(tmp_path_factory.mktemp("model"))


def options_of_a_trial(small_chat_model):
    return [
        *("--model.policy.path", small_chat_model, "--model.evaluation.max_new_tokens", 4),
        *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true"),
        *("--trainer.enable_progress_bar", "false"),
    ]


def test_all_sets_in_one_evaluation(small_chat_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = composed(*ROWS)
    for name, row in ROWS.items():
        path = tmp_path / name / "test.jsonl"
        path.parent.mkdir()
        column = "question" if name in ("olympiadbench", "gsm8k") else "problem"
        rows = [row, {**row, column: "What else?"}]
        path.write_text("".join(f"{json.dumps(each)}\n" for each in rows))
        options += local(name, path)
    outcome = lgrpo("validate", *options, *options_of_a_trial(small_chat_model))
    assert outcome.code == 0, outcome.err
    (path,) = tmp_path.glob("runs/*/*-validate/results.json")
    results = json.loads(path.read_text())
    assert results["sets"].keys() == ROWS.keys()
    for entry in results["sets"].values():
        assert (entry["n"], entry["mean"], entry["standard_error"]) == (2, 0, 0)
    assert results["mean_of_sets"] == {"mean": 0, "standard_error": 0}
    assert results["decoding"]["temperature"] == 0
    assert "mean of 6 sets" in outcome.out


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the data sets in {DATA}")
def test_real_files_are_evaluated(small_chat_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("aime24", "amc23", "gsm8k")
    paths = [part for name in names for part in local(name, DATA / name / "test.jsonl")]
    outcome = lgrpo(
        *("test", *composed(*names), *paths, *options_of_a_trial(small_chat_model)),
        *("--data.eval_limit", 3),
    )
    assert outcome.code == 0, outcome.err
    (run,) = tmp_path.glob("runs/*/*-test")
    results = json.loads((run / "results.json").read_text())
    assert {name: entry["n"] for name, entry in results["sets"].items()} == dict.fromkeys(names, 3)
    (path,) = run.glob("evaluations/test-step-*.jsonl")
    for row in read_jsonl(path):
        assert row["prompt"].startswith("<|im_start|>system\nPlease reason step by step")
