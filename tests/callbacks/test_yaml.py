from pathlib import Path

import jsonargparse
import pytest
import yaml
from lightning.pytorch import Callback

import lgrpo_callbacks

YAML = """
callbacks:
  - class_path: lgrpo_callbacks.KLTracker
    init_args: {stop_above: 0.5, target: null, position_bins: 2}
  - class_path: lgrpo_callbacks.RewardEvaluator
    init_args: {k: [1, 8], success_threshold: 0.5}
  - class_path: lgrpo_callbacks.CompletionLogger
    init_args: {every_n_steps: 10, to_terminal: true}
  - class_path: lgrpo_callbacks.ProcessTreeMonitor
    init_args: {every_n_steps: 10, max_trees: 2, picture: false}
  - class_path: lgrpo_callbacks.ReferenceSync
    init_args: {every_n_steps: 100, alpha: 0.6}
  - class_path: lgrpo_callbacks.ExportHuggingFace
    init_args: {monitor: eval/pass@1, mode: max, merge: true, tokenizer: null}
"""


def parse(text):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback])
    return parser.instantiate(parser.parse_string(text)).callbacks


def test_every_callback_is_built_from_yaml():
    callbacks = {type(callback).__name__: callback for callback in parse(YAML)}
    assert set(callbacks) == set(lgrpo_callbacks.__all__) - {"read_jsonl"}
    assert callbacks["KLTracker"].position_bins == 2
    assert callbacks["RewardEvaluator"].ks == [1, 8]
    assert callbacks["CompletionLogger"].to_terminal
    assert callbacks["ProcessTreeMonitor"].max_trees == 2
    assert callbacks["ReferenceSync"].alpha == 0.6
    assert callbacks["ExportHuggingFace"].tokenizer is None


@pytest.mark.parametrize("name", ["KLTracker", "RewardEvaluator", "CompletionLogger",
                                  "ProcessTreeMonitor", "ExportHuggingFace"])  # fmt: skip
def test_only_the_reference_has_an_argument_without_default(name):
    [callback] = parse(f"callbacks: [lgrpo_callbacks.{name}]")
    assert type(callback).__name__ == name


def test_a_misspelt_argument_is_named():
    with pytest.raises(jsonargparse.ArgumentError, match="every_n_step'"):
        parse(YAML.replace("every_n_steps: 100", "every_n_step: 100"))


def test_the_yaml_of_the_documentation_is_true():
    text = (Path(__file__).parents[2] / "docs" / "callbacks.md").read_text(encoding="utf-8")
    trainer = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["trainer"]
    callbacks = parse(yaml.safe_dump({"callbacks": trainer["callbacks"]}))
    assert {type(item).__name__ for item in callbacks} == set(lgrpo_callbacks.__all__) - {
        "read_jsonl"
    }
