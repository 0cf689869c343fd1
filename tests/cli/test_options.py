"""Configs, overrides, help, and the forms in which rewards can be given."""

import re
import runpy
import sys

import pytest
import yaml

import lgrpo_lightning
from lgrpo_callbacks import read_jsonl
from tests.cli.running import lgrpo


def test_later_configs_and_options_win(place):
    (place / "more.yaml").write_text("model: {group_size: 4, loss: {kl_coef: 0.1}}\n")
    shown = lgrpo(
        "fit", "-c", "tiny.yaml", "-c", "more.yaml", "--model.loss.kl_coef", 0.5, "--print_config"
    )
    assert shown.code == 0
    config = yaml.safe_load(shown.out)
    assert config["model"]["group_size"] == 4
    assert config["model"]["loss"]["kl_coef"] == 0.5
    assert config["model"]["policy"]["path"].endswith("tiny-addition")
    assert config["weights_only"] is True
    assert shown.out.startswith(f"# lgrpo-lightning=={lgrpo_lightning.__version__}\n")
    assert not (place / "runs").exists()


REWARDS = """
model:
  rewards:
    - my_rewards.one
    - {function: my_rewards.two, weight: 0.5}
    - function: lgrpo_lightning.rewards.FormatReward
      weight: 0.25
      arguments: {pattern: '.*', flags: [DOTALL]}
      name: anything
"""
OWN = """
def one(prompts, completions, completion_ids, answer, **columns):
    return [1.0 for _ in completions]

def two(prompts, completions, **columns):
    return [2.0 for _ in completions]
"""


def test_rewards_as_paths_and_with_weight_and_arguments(place):
    (place / "my_rewards.py").write_text(OWN)
    (place / "rewards.yaml").write_text(REWARDS)
    short = ("--trainer.max_steps", 1, "--trainer.num_sanity_val_steps", 0)
    outcome = lgrpo("fit", "-c", "tiny.yaml", "-c", "rewards.yaml", *short)
    assert outcome.code == 0, outcome.err
    (history,) = place.glob("runs/*/*/completions/rank-0.jsonl")
    for row in read_jsonl(history):
        assert row["reward_breakdown"] == {"one": 1.0, "two": 2.0, "anything": 1.0}
        assert row["reward"] == 1.0 + 0.5 * 2.0 + 0.25


def test_the_help_says_what_there_is():
    overview = lgrpo("--help")
    assert overview.code == 0
    for words in ("Train a policy", "Evaluate a policy", "Write completions", "lgrpo report"):
        assert words in overview.out
    shown = lgrpo("fit", "--help")
    assert shown.code == 0
    assert shown.out.startswith("usage: lgrpo fit -c CONFIG")
    text = re.sub(r"\s+", " ", shown.out)
    for option in ("--runs", "--name", "--ckpt_path", "--model.group_size", "--data.eval_limit"):
        assert f"{option} " in text
    assert "(type: int, default: 8)" in text
    assert "Load plain data only." in text


def test_the_module_is_the_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["__main__.py", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("lgrpo_lightning", run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out == f"lgrpo {lgrpo_lightning.__version__}\n"


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_all_commands_take_the_same_config(parser, place, command):
    config = parser.parse_args([command, "-c", "tiny.yaml", "--ckpt_path", "last"])
    assert config[command].ckpt_path == "last"
    assert config[command].weights_only is True
