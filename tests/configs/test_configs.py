"""Every shipped config is read, and those that need no hub and no GPU are run."""

import itertools
import re
import subprocess
import sys

import pytest
import torch

from lgrpo_callbacks import read_jsonl
from lgrpo_lightning.rollout import VLLMSettings
from tests.cli.running import ROOT, command_parser, lgrpo
from tests.configs.small_chat_model import save_small_chat_model

CONFIGS = ROOT / "configs"
BENCHMARKS = sorted((CONFIGS / "benchmarks").glob("*.yaml"))
OVERLAYS = {"lora", "ddp", "fsdp2", "slurm", "torchrun", "vllm", "wandb"}
GSM8K = ROOT.parent / "shared" / "data" / "gsm8k"


@pytest.fixture(scope="module")
def parser():
    return command_parser()


def composed(name: str) -> list[str]:
    """The arguments that make a whole config of a shipped file."""
    paths = [CONFIGS / "gsm8k.yaml"] * (name in OVERLAYS) + [CONFIGS / f"{name}.yaml"]
    return [argument for path in paths for argument in ("-c", str(path))]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_config_is_valid_for_every_command(parser, path):
    for command in ("fit", "validate", "test", "predict"):
        parser.parse_args([command, *composed(path.stem)])


@pytest.mark.parametrize(
    "path", [*sorted(CONFIGS.glob("*.yaml")), *BENCHMARKS], ids=lambda path: path.stem
)
def test_every_key_is_explained(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    command = "lgrpo validate" if path in BENCHMARKS else "lgrpo fit"
    assert any(path.name in line and command in line for line in lines if line.startswith("#"))
    for line, following in itertools.pairwise([*lines, ""]):
        is_value = re.match(r"\s*(- )?\w+: \S", line) and "class_path:" not in line
        assert not is_value or "#" in line or following.lstrip().startswith("#"), line


def test_lora_adds_an_adapter_and_changes_nothing_else(parser):
    full = parser.parse_args(["fit", *composed("gsm8k")]).fit
    lora = parser.parse_args(["fit", *composed("lora")]).fit
    assert vars(lora.model.policy.lora) == {
        "r": 64,
        "alpha": 128,
        "dropout": 0.05,
        "target_modules": "all-linear",
        "use_dora": False,
    }
    lora.model.policy.lora = None
    assert lora.model == full.model
    assert lora.trainer == full.trainer
    assert lora.data == full.data


def test_vllm_servers_on_the_command_line(parser):
    servers = "{mode: server, urls: [http://localhost:8000]}"
    config = parser.parse_args(["fit", *composed("vllm"), "--model.vllm", servers]).fit
    settings = VLLMSettings(**vars(config.model.vllm))
    assert settings.urls == ["http://localhost:8000"]


def test_one_optimizer_step_per_rollout_of_gsm8k(parser):
    config = parser.parse_args(["fit", *composed("gsm8k")]).fit
    completions = config.data.prompts_per_rollout * config.model.group_size
    micro_batches = completions // config.model.micro_batch_size
    assert config.trainer.accumulate_grad_batches == micro_batches
    assert config.trainer.val_check_interval % micro_batches == 0


def test_the_quickstart_begins(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # of the other tests too
    outcome = lgrpo(
        *("fit", "-c", "configs/quickstart.yaml", "--runs", tmp_path, "--data.eval_limit", 8),
        *("--trainer.max_steps", 2, "--trainer.val_check_interval", 2),
        *("--trainer.enable_progress_bar", "false"),
    )
    assert outcome.code == 0, outcome.err
    assert "evaluation      step 0  last step 2\n" in outcome.out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quickstart_learns_to_carry(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    outcome = lgrpo("fit", "-c", "configs/quickstart.yaml", "--runs", tmp_path)
    assert outcome.code == 0, outcome.err
    (first, *_, last) = sorted(tmp_path.glob("quickstart/*/evaluations/*.jsonl"))
    before, after = (
        sum(row["rewards"][0] for row in read_jsonl(path)) / 200 for path in (first, last)
    )
    assert before < 0.3
    assert after > 0.85


@pytest.fixture(scope="module")
def small_chat_model(tmp_path_factory):
    return save_small_chat_model(tmp_path_factory.mktemp("model"))


def gsm8k_arguments(small_chat_model, tmp_path):
    """A few steps on the real files, by a model that knows nothing."""
    if not GSM8K.is_dir():
        pytest.skip(f"the GSM8K files are not at {GSM8K}")
    return [
        *("--runs", tmp_path, "--model.policy.path", small_chat_model),
        *("--data.path", GSM8K / "train.jsonl", "--data.name", "null", "--data.limit", 64),
        *("--data.eval_path", GSM8K / "test.jsonl", "--data.eval_split", "null"),
        *("--data.eval_limit", 4, "--data.prompts_per_rollout", 2),
        *("--model.sampling.max_new_tokens", 12, "--model.evaluation.max_new_tokens", 12),
        *("--trainer.accelerator", "cpu", "--trainer.accumulate_grad_batches", 4),
        *("--trainer.max_steps", 2, "--trainer.val_check_interval", 8),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    ]


@pytest.mark.parametrize("name", ["gsm8k", "lora"])
def test_gsm8k_runs_on_real_files(small_chat_model, tmp_path, name):
    if name == "lora":
        pytest.importorskip("peft")
    outcome = lgrpo("fit", *composed(name), *gsm8k_arguments(small_chat_model, tmp_path))
    assert outcome.code == 0, outcome.err
    (run,) = tmp_path.glob("*/*")
    assert run.parent.name == ("gsm8k" if name == "gsm8k" else "gsm8k-lora")
    rows = read_jsonl(run / "completions" / "rank-0.jsonl")
    assert len(rows) == 2 * 2 * 8
    for row in rows:
        assert row["prompt"].startswith("<|im_start|>system\nPlease reason step by step")
        assert row["prompt"].endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert row["reward_breakdown"].keys() == {"gsm8k_reward", "boxed"}
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all("lora_" in key for key in weights) is (name == "lora")


@pytest.mark.slow
def test_ddp_runs_on_two_processes(small_chat_model, tmp_path):
    """In a process of its own, as Lightning's launcher starts the command once more."""
    arguments = [
        *(sys.executable, "-m", "lgrpo_lightning", "fit", *composed("ddp")),
        *gsm8k_arguments(small_chat_model, tmp_path),
        *("--trainer.devices", 2),
    ]
    ended = subprocess.run(
        [str(argument) for argument in arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    (run,) = tmp_path.glob("gsm8k-ddp/*")
    assert {path.name for path in run.glob("completions/*")} == {"rank-0.jsonl", "rank-1.jsonl"}
    assert ended.stdout.count("finished at optimizer step 2") == 1


def test_without_a_hub_its_names_are_one_clear_error(tmp_path, small_chat_model):
    outcome = lgrpo("fit", *composed("gsm8k"), "--runs", tmp_path, "--trainer.accelerator", "cpu")
    assert outcome.code == 1
    assert "lgrpo: 'openai/gsm8k' is no file or folder here" in outcome.err
    assert "the hub was not reached" in outcome.err
    assert "Traceback" not in outcome.err
    arguments = gsm8k_arguments(small_chat_model, tmp_path)[4:]
    outcome = lgrpo("fit", *composed("gsm8k"), "--runs", tmp_path, *arguments)
    assert outcome.code == 1
    assert "lgrpo: no tokenizer could be loaded from 'Qwen/Qwen2.5-0.5B-Instruct'" in outcome.err
