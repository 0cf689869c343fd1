"""The paper's language-model runs: their settings, the runs at toy size, and the table."""

import itertools
import json
import math
import re
from pathlib import Path

import pytest
import yaml

from benchmarks import paper_table
from benchmarks.paper_table import PAPER, SETS, Setting, mean, paper_row
from tests.cli.running import ROOT, command_parser, lgrpo
from tests.configs import test_configs
from tests.configs.small_chat_model import save_small_chat_model

CONFIGS = ROOT / "configs" / "paper"
DATA = ROOT.parent / "shared" / "data"
RUNS = list(itertools.product(("qwen", "llama"), (0.0, 0.04), (True, False)))
PROBLEM = {"problem": "What is 6 · 7?", "solution": r"It is \boxed{42}.", "answer": "42"}
STAND_INS = {  # rows in the columns of the published sets
    "aime24": [PROBLEM, {**PROBLEM, "answer": "042"}],
    "math500": [PROBLEM, {**PROBLEM, "answer": r"\frac{1}{2}"}],
    "amc23": [{**PROBLEM, "answer": 42.0}] * 2,
    "minerva": [{"problem": "?", "solution": r"\boxed{3 \text{ m}}"}] * 2,
    "olympiadbench": [{"question": "?", "answer": "$2$"}] * 2,
}


def composed(model, kl_coef, scaling):
    names = ["openrs", model, *["kl"] * (kl_coef > 0), *["grpo"] * (not scaling)]
    return [part for name in names for part in ("-c", str(CONFIGS / f"{name}.yaml"))]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_key_is_explained(path):
    test_configs.test_every_key_is_explained(path)


def test_eight_runs_differ_in_model_beta_and_lambda_alone():
    configs = {run: command_parser().parse_args(["fit", *composed(*run)]).fit for run in RUNS}
    for (model, kl_coef, scaling), config in configs.items():
        assert model in config.model.policy.path.lower()
        assert config.model.loss.kl_coef == kl_coef
        assert config.model.loss.process_set_scaling is scaling
        config.model.policy.path = ""
        config.model.loss.kl_coef, config.model.loss.process_set_scaling = 0.0, True
        config.config = None
    first, *others = configs.values()
    assert all(other == first for other in others)
    completions = first.data.prompts_per_rollout * first.model.group_size
    micro_batches = completions // first.model.micro_batch_size
    assert first.trainer.accumulate_grad_batches == micro_batches  # μ = 1
    assert first.trainer.val_check_interval == 50 * micro_batches
    trained = int(re.search(r"\d+", first.data.split)[0])
    assert trained == first.data.prompts_per_rollout * first.trainer.max_steps


def table_rows(text):
    """Cells of the rows of a Markdown table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [re.split(r"\s*\|\s*", line)[1:-1] for line in lines[2:]]


def write_results(folder, setting, shares):
    folder.mkdir()
    config = {
        "model": {
            "policy": {"path": f"some/{setting.model}-1B"},
            "loss": {
                "kl_coef": max(setting.kl_coef, 0),
                "process_set_scaling": setting.method == "λ-GRPO",
            },
        }
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    sets = {
        name: {"n": n, "mean": p, "standard_error": math.sqrt(p * (1 - p) / (n - 1))}
        for (name, (_, n)), p in zip(SETS.items(), shares, strict=True)
    }
    checkpoint = None if setting.method == "base" else "last.ckpt"
    path = folder / "results.json"
    path.write_text(json.dumps({"checkpoint": checkpoint, "sets": sets}))
    return path


def test_the_paper_s_numbers_make_the_paper_s_table(tmp_path, capsys):
    paths = [
        write_results(tmp_path / str(number), setting, shares)
        for number, (setting, shares) in enumerate(PAPER.items())
    ]
    paper_table.main([*map(str, paths), "--json", str(tmp_path / "table.json")])
    shares, gains = capsys.readouterr().out.split("λ-GRPO − GRPO")
    rows = table_rows(shares)
    assert len(rows) == 2 * len(PAPER)
    for here, paper in zip(rows[::2], rows[1::2], strict=True):
        assert (here[3], paper[3]) == ("here", "paper")
        assert here[:3] + here[4:] == paper[:3] + paper[4:]
    assert [*rows[4][:4], rows[4][4], rows[4][9]] == [
        *("Qwen", "0", "λ-GRPO", "here", "0.3667 ± 0.0895", "0.5576 ± 0.0238")
    ]
    assert gains.count("| here ") == gains.count("| paper ") == 4
    assert len(json.loads((tmp_path / "table.json").read_text())) == len(PAPER)


def test_the_means_are_the_paper_s():
    """Its last column, which has the mean of unrounded shares."""
    printed = (0.5175, 0.4837, 0.5576, 0.5394, 0.5739, 0.0814, 0.0842, 0.1001, 0.0996, 0.0973)
    for setting, value in zip(PAPER, printed, strict=True):
        assert mean(paper_row(setting)).value == pytest.approx(value, abs=6e-4), setting


def test_results_of_another_kind_are_refused(tmp_path):
    path = write_results(tmp_path / "run", Setting("Qwen", 0, "GRPO"), [0.5] * 5)
    with pytest.raises(SystemExit, match="twice"):
        paper_table.main([str(path), str(path)])
    path.with_name("config.yaml").unlink()
    with pytest.raises(SystemExit, match="is missing, which says"):
        paper_table.main([str(path)])
    path.write_text("{}")
    with pytest.raises(SystemExit, match="has none of the sets"):
        paper_table.main([str(path)])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models of the two architectures."""
    folder = tmp_path_factory.mktemp("models")
    return {
        name: save_small_chat_model(folder / name, architecture)
        for name, architecture in (("qwen", "qwen2"), ("llama", "llama"))
    }


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Stand-ins for OpenRS and the benchmarks; the real AIME24 and AMC23 where they are at hand."""
    folder = tmp_path_factory.mktemp("data")
    found = {
        name: write_rows(folder / name / "test.jsonl", rows) for name, rows in STAND_INS.items()
    }
    found |= {p.parent.name: p for p in DATA.glob("a*/test.jsonl")}
    rows = [{**PROBLEM, "problem": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(12)]
    found["train"] = write_rows(folder / "open-rs" / "train.jsonl", rows[:8])
    found["held out"] = write_rows(folder / "open-rs" / "test.jsonl", rows[8:])
    return found


SMALL = [
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true"),
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    *("--model.evaluation.max_new_tokens", "8"),
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_runs_at_toy_size_through_to_the_table(models, files, tmp_path, monkeypatch, capsys):
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    results = []
    for run in RUNS:
        model = [*composed(*run), "--model.policy.path", models[run[0]], *SMALL]
        outcome = lgrpo(
            *("fit", *model, "--data.path", files["train"], "--data.split", "null"),
            *("--data.eval_path", files["held out"], "--data.eval_split", "null"),
            *("--model.sampling.max_new_tokens", 8, "--trainer.max_steps", 2),
            *("--trainer.val_check_interval", 4),
        )
        assert outcome.code == 0, outcome.err
        (checkpoint,) = tmp_path.glob(f"runs/{name_of(run)}/*/checkpoints/last.ckpt")
        results.append(evaluated(model, files, checkpoint, name_of(run)))
    for name, folder in models.items():
        base = [*composed(name, 0.0, True), "--model.policy.path", folder, *SMALL]
        results.append(evaluated(base, files, "null", f"base-{name}"))
    paper_table.main([str(path) for path in results])
    shares, gains = capsys.readouterr().out.split("λ-GRPO − GRPO")
    rows = table_rows(shares)
    here = [row for row in rows if row[3] == "here"]
    assert len(here) == len(PAPER)
    assert [row[:3] for row in here] == [setting.cells for setting in PAPER]
    assert all(re.fullmatch(r"\d\.\d{4} ± \d\.\d{4}", cell) for row in here for cell in row[4:])
    assert len(table_rows(gains)) == 2 * 4


def name_of(run):
    return "-".join(re.search(r"(\w+)\.yaml", part)[1] for part in composed(*run)[1::2])


def evaluated(model, files, checkpoint, name):
    """``lgrpo test`` on the five sets; its results.json."""
    folder = ROOT / "configs" / "benchmarks"
    sets = [part for set_ in ("protocol", *SETS) for part in ("-c", folder / f"{set_}.yaml")]
    paths = [part for set_ in SETS for part in (f"--data.eval_sets.{set_}.path", files[set_])]
    split = model.index("--model.policy.path")
    outcome = lgrpo(
        *("test", *model[:split], *sets, *model[split:], *paths, "--data.eval_limit", 2),
        *("--ckpt_path", checkpoint, "--name", f"table-{name}"),
    )
    assert outcome.code == 0, outcome.err
    (path,) = Path("runs").glob(f"table-{name}/*-test/results.json")
    return path
