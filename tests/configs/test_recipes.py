"""The recipes of configs/recipes: what each sets, and one rollout of each on the tiny policy."""

import json

import pytest
import torch

from lgrpo_callbacks import read_jsonl
from tests.cli.running import ROOT, command_parser, lgrpo
from tests.configs import test_configs

GSM8K = ROOT / "configs" / "gsm8k.yaml"
RECIPES = sorted((ROOT / "configs" / "recipes").glob("*.yaml"))
PROMPTS, GROUP, MICRO_BATCHES = 2, 4, 4


def composed(path):
    return ["fit", "-c", str(GSM8K), "-c", str(path)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Problems of the tiny policy in GSM8K's columns."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("train", "heldout"):
        rows = read_jsonl(ROOT / "assets" / "addition" / f"{name}.jsonl")[:8]
        lines = [
            json.dumps({"question": row["prompt"], "answer": f"#### {row['answer']}"})
            for row in rows
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_key_of_a_recipe_is_explained(path):
    test_configs.test_every_key_is_explained(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_lambda_is_one_key_of_a_recipe(path):
    config = command_parser().parse_args(composed(path)).fit
    assert config.model.loss.process_set_scaling is True
    assert "process_set_scaling: true" in path.read_text()
    plain = command_parser().parse_args(
        [*composed(path), "--model.loss.process_set_scaling", "false"]
    )
    plain.fit.model.loss.process_set_scaling = True
    assert plain.fit.model == config.model
    completions = config.data.prompts_per_rollout * config.model.group_size
    micro_batches = completions // config.model.micro_batch_size
    assert micro_batches % config.trainer.accumulate_grad_batches == 0


def test_the_overlong_penalty_ends_where_completions_do():
    path = ROOT / "configs" / "recipes" / "dapo.yaml"
    config = command_parser().parse_args(composed(path)).fit
    (_, penalty) = config.model.rewards
    assert penalty.arguments["max_tokens"] == config.model.sampling.max_new_tokens


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains(monkeypatch, tmp_path, data, path):
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # of the other tests too
    config = command_parser().parse_args(composed(path)).fit
    completions = config.data.prompts_per_rollout * config.model.group_size
    updates = completions // config.model.micro_batch_size // config.trainer.accumulate_grad_batches
    outcome = lgrpo(
        *composed(path),
        *("--runs", tmp_path, "--model.policy.path", ROOT / "assets" / "tiny-addition"),
        *("--data.path", data / "train.jsonl", "--data.name", "null", "--data.split", "null"),
        *(
            "--data.eval_path",
            data / "heldout.jsonl",
            "--data.eval_split",
            "null",
            "--data.eval_limit",
            1,
        ),
        *("--data.system_prompt", "null", "--data.prompts_per_rollout", PROMPTS),
        *(
            "--model.group_size",
            GROUP,
            "--model.micro_batch_size",
            PROMPTS * GROUP // MICRO_BATCHES,
        ),
        *("--model.sampling.max_new_tokens", 48, "--model.evaluation.max_new_tokens", 48),
        *("--trainer.accelerator", "cpu", "--trainer.max_steps", updates),
        *("--trainer.accumulate_grad_batches", MICRO_BATCHES // updates),
        *("--trainer.num_sanity_val_steps", 0, "--trainer.limit_val_batches", 0),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        *("--trainer.callbacks", "[]", "--trainer.enable_checkpointing", "false"),
        *("--trainer.callbacks+", "lgrpo_callbacks.CompletionLogger"),
    )
    assert outcome.code == 0, outcome.err
    (run,) = tmp_path.glob("*/*")
    assert run.parent.name == f"gsm8k-{path.stem}"
    assert len(read_jsonl(run / "completions" / "rank-0.jsonl")) == PROMPTS * GROUP
