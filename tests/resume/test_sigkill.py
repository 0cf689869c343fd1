"""A run that is killed again and again ends with the weights and logs of one that never was."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from lgrpo_callbacks import read_jsonl
from lgrpo_lightning.cli.checkpoints import read_checkpoint
from tests.resume.comparing import difference, equal, final_state, logs
from tests.resume.nursery import ROOT, Nursery

KILLS = 20
CONFIG = """
trainer:
  accelerator: cpu
  devices: 1
  max_steps: 1000
  accumulate_grad_batches: 2
  gradient_clip_val: 1.0
  val_check_interval: 12
  check_val_every_n_epoch: null
  num_sanity_val_steps: -1
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lgrpo_callbacks.KLTracker
    - class_path: lgrpo_callbacks.RewardEvaluator
    - class_path: lgrpo_callbacks.CompletionLogger
    - class_path: lgrpo_callbacks.ProcessTreeMonitor
      init_args: {{every_n_steps: 3, picture: false}}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{every_n_train_steps: 1, save_last: true}}
model:
  policy: {{path: {root}/assets/tiny-addition}}
  rewards: [lgrpo_lightning.rewards.boxed_match_reward]
  group_size: 4
  micro_batch_size: 4
  num_iterations: 2
  sampling: {{max_new_tokens: 24}}
  evaluation: {{max_new_tokens: 24, temperature: 0.0}}
  loss: {{kl_coef: 0.04}}
  optimizer:
    class_path: torch.optim.AdamW
    init_args: {{lr: 1.0e-4, weight_decay: 0.0}}
  lr_scheduler:
    class_path: torch.optim.lr_scheduler.LinearLR
data:
  path: {root}/assets/addition/train.jsonl
  eval_path: {root}/assets/addition/heldout.jsonl
  prompts_per_rollout: 4
  limit: 22
  eval_limit: 8
"""


@pytest.fixture
def nursery(tmp_path):
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(root=ROOT))
    nursery = Nursery(tmp_path)
    yield nursery
    nursery.close()


def runs(folder: Path, name: str) -> list[Path]:
    """The runs of a name, in order."""
    return sorted((folder / "runs" / name).glob("*/"), key=lambda run: run.stat().st_ctime_ns)


def step_reached(folder: Path) -> int:
    """The optimizer step of the newest checkpoint."""
    names = [path.stem for path in (folder / "runs" / "killed").glob("*/checkpoints/epoch*.ckpt")]
    return max((int(name.rpartition("step=")[2]) for name in names), default=0)


def kill(process: int, folder: Path, delay: float | None) -> None:
    """Kill a run after its first checkpoint; without delay, while it writes a second one."""
    before = step_reached(folder)
    while step_reached(folder) == before:
        os.kill(process, 0)  # fails where the run has ended by itself
        time.sleep(0.005)
    checkpoints = runs(folder, "killed")[-1] / "checkpoints"
    if delay is None:
        while not any(name.endswith(".unfinished") for name in os.listdir(checkpoints)):
            pass
    else:
        time.sleep(delay)
    os.kill(process, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_any_moment_nothing_is_lost(nursery, tmp_path):
    moments = random.Random(0)
    for number in range(KILLS):
        last = ("--ckpt_path", "last") if number else ()
        process = nursery.start("fit", "-c", "tiny.yaml", "--name", "killed", *last)
        kill(process, tmp_path, None if number % 4 == 3 else moments.uniform(0, 0.5))
        assert nursery.result() == -signal.SIGKILL, (tmp_path / "output.txt").read_text()
    end = ("--trainer.max_steps", step_reached(tmp_path) + 2)
    for name, *last in (("killed", "--ckpt_path", "last"), ("whole",)):
        nursery.start("fit", "-c", "tiny.yaml", "--name", name, *last, *end)
        assert nursery.result() == 0, (tmp_path / "output.txt").read_text()

    (whole,), killed = runs(tmp_path, "whole"), runs(tmp_path, "killed")
    assert equal(final_state(killed[-1]), final_state(whole))
    expected, found = logs(whole), logs(*killed)
    for name in expected:
        assert not difference(expected[name], found[name]), name
    for run in killed:
        for path in run.glob("checkpoints/*.ckpt"):
            read_checkpoint(path, weights_only=True)
        for path in run.rglob("*.jsonl"):
            read_jsonl(path)
    assert not list(tmp_path.glob("runs/killed/*/checkpoints/.*"))
