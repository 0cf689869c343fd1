"""A run with all callbacks, and its report: what they write is what the report reads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lgrpo_lightning.report.run import read_runs

ROOT = Path(__file__).parents[2]

OVERLAY = """
trainer:
  max_steps: 4
  val_check_interval: 2
  callbacks:
    - class_path: lgrpo_callbacks.KLTracker
    - class_path: lgrpo_callbacks.RewardEvaluator
    - class_path: lgrpo_callbacks.CompletionLogger
    - class_path: lgrpo_callbacks.ProcessTreeMonitor
      init_args: {every_n_steps: 2, max_trees: 3}
"""


@pytest.mark.slow
def test_a_run_of_the_quickstart_is_reported_whole(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(OVERLAY)
    command = [
        *(sys.executable, "-m", "lgrpo_lightning", "fit", "-c", "configs/quickstart.yaml"),
        *("-c", str(overlay), "--runs", str(tmp_path / "runs"), "--name", "quickstart"),
    ]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "callbacks")])},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "runs" / "quickstart").iterdir()
    (run,) = read_runs([folder])
    assert run.notes == []
    curves = {name: table["x"] for table in run.curves for name in table["y"]}
    assert curves["train/reward"] == [1, 2, 3, 4]
    assert curves["kl/ref"] == [1, 2, 3, 4]
    assert curves["tree/path_depth"] == [1, 2, 3, 4]
    assert curves["eval/pass@1"] == [0, 2, 4]
    assert [tree["step"] for tree in run.trees] == [2, 2, 2, 4, 4, 4]
    assert {g["step"] for g in run.groups if g["source"] == "training"} == {1, 2, 3, 4}
    assert {g["step"] for g in run.groups if g["source"] == "validation"} == {0, 2, 4}
    texts = {
        completion["text"]
        for group in run.groups
        if group["source"] == "training" and group["prompt"] == run.trees[0]["prompt"]
        for completion in group["completions"]
    }
    root = "".join(run.trees[0]["nodes"][0]["tokens"]).removesuffix("<eos>")
    assert any(text.startswith(root) for text in texts)
