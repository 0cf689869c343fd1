"""A resumed run's logs are those of a run that was never stopped."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lgrpo_lightning.cli.continuation import Continuation
from lgrpo_lightning.cli.metrics_csv import MetricsCSV, read_rows
from lgrpo_lightning.cli.options import checkpoint_to_load
from tests.cli.running import config, lgrpo
from tests.resume.comparing import difference, equal, final_state, logs

OPTIONS = """
trainer:
  max_steps: 6
  accumulate_grad_batches: 2
  val_check_interval: 4
  callbacks:
    - class_path: lgrpo_callbacks.KLTracker
    - class_path: lgrpo_callbacks.RewardEvaluator
    - class_path: lgrpo_callbacks.CompletionLogger
    - class_path: lgrpo_callbacks.ProcessTreeMonitor
      init_args: {every_n_steps: 1, picture: false}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {every_n_train_steps: 1, save_top_k: -1, save_last: true, filename: "{step}"}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {monitor: eval/reward, mode: max, save_top_k: -1, filename: "evaluated-{step}"}
model: {micro_batch_size: 1}
"""


def fit(folder: Path, name: str, *options: object):
    """6 optimizer steps, evaluated after every second one."""
    return lgrpo(
        *("fit", "-c", folder / "tiny.yaml", "-c", folder / "steps.yaml", "--name", name),
        *("--runs", folder / "runs", *options),
    )


def last_run(folder: Path, name: str) -> Path:
    return max((folder / "runs" / name).iterdir(), key=lambda run: run.stat().st_ctime_ns)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped, which tests leave as it is."""
    folder = tmp_path_factory.mktemp("whole")
    config(folder)
    (folder / "steps.yaml").write_text(OPTIONS)
    outcome = fit(folder, "whole")
    assert outcome.code == 0, outcome.err
    return last_run(folder, "whole")


@pytest.mark.parametrize(
    "taken",
    [
        pytest.param("step=1", marks=pytest.mark.slow),
        "step=2",
        pytest.param("evaluated-step=4", marks=pytest.mark.slow),
        "step=6",
    ],
)
def test_after_a_kill_at_the_checkpoint_nothing_is_lost(whole, taken):
    """A checkpoint as a killed run leaves it: its figures not logged, its evaluation not made."""
    folder, name, step = whole.parents[2], f"killed-{taken}", int(taken[-1])
    killed = folder / "runs" / name / "killed"
    (killed / "checkpoints").mkdir(parents=True)
    shutil.copy(whole / "checkpoints" / f"{taken}.ckpt", killed / "checkpoints")
    outcome = fit(folder, name, "--ckpt_path", "last")
    assert outcome.code == 0, outcome.err
    resumed = last_run(folder, name)
    assert equal(final_state(resumed), final_state(whole))
    expected, found = logs(whole), logs(resumed)
    first = step + taken.startswith("evaluated")  # of the evaluations that are still to be made
    expected["evaluations"] = [
        (name, problems)
        for name, problems in expected["evaluations"]
        if int(Path(name).stem[-8:]) >= first
    ]
    for kind in expected:
        assert not difference(expected[kind], found[kind]), kind


def test_a_run_that_has_ended_can_be_ended_again_and_lengthened(whole):
    folder = whole.parents[2]
    for steps in (6, 7):
        last = last_run(folder, "whole" if steps == 6 else "longer") / "checkpoints" / "last.ckpt"
        outcome = fit(folder, "longer", "--ckpt_path", last, "--trainer.max_steps", steps)
        assert outcome.code == 0, outcome.err
        assert f"finished at optimizer step {steps}" in outcome.out
    former, found = logs(whole)["metrics"], logs(last_run(folder, "longer"))["metrics"]
    assert not difference(former, found[: len(former)])
    assert [(row["step"], "train/loss" in row) for row in found[len(former) :]] == [(6, True)]


STOPPER = """
from lightning.pytorch import Callback

class Stopper(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.total_batch_idx == 3:
            raise KeyboardInterrupt
"""


@pytest.mark.slow
def test_an_evaluation_between_two_optimizer_steps_is_in_the_logs_once(whole, monkeypatch):
    folder = whole.parents[2]
    monkeypatch.chdir(folder)
    (folder / "stopper.py").write_text(STOPPER)
    between = ("--trainer.val_check_interval", 3, "--trainer.callbacks+=stopper.Stopper")
    assert fit(folder, "odd", *between).code == 130
    last = last_run(folder, "odd") / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 1
    outcome = fit(folder, "odd", "--ckpt_path", last, *between[:2])
    assert outcome.code == 0, outcome.err
    rows = read_rows(last_run(folder, "odd") / "metrics.csv")
    assert [row["step"] for row in rows if "eval/reward" in row] == [0, 1, 2, 4, 5]
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(6))


def test_rows_that_are_gone_are_announced(whole, tmp_path):
    path = whole / "metrics.csv"
    lines = path.read_bytes()
    path.write_bytes(b"".join(lines.splitlines(keepends=True)[:3]))
    checkpoint = ("--ckpt_path", whole / "checkpoints" / "step=5.ckpt")
    with pytest.warns(UserWarning, match=r"no longer whole in .*metrics.csv: 2 of 7 rows"):
        fit(whole.parents[2], "other", *checkpoint, "--trainer.max_steps", 5)
    path.write_bytes(lines)


def test_a_broken_newest_checkpoint_is_passed_over(whole, tmp_path):
    folder = tmp_path / "runs" / "broken" / "killed" / "checkpoints"
    folder.mkdir(parents=True)
    shutil.copy(whole / "checkpoints" / "step=5.ckpt", folder)
    newest = (whole / "checkpoints" / "last.ckpt").read_bytes()
    (folder / "last.ckpt").write_bytes(newest[: len(newest) // 2])
    (folder / ".last.ckpt.unfinished").write_bytes(newest[: len(newest) // 2])
    options = SimpleNamespace(
        runs=tmp_path / "runs", name="broken", ckpt_path="last", weights_only=True
    )
    with pytest.warns(UserWarning, match=r"last.ckpt: this is no checkpoint, or a broken one; goi"):
        assert checkpoint_to_load(options, "fit") == str(folder / "step=5.ckpt")
    assert not (folder / ".last.ckpt.unfinished").exists()
    (folder / "step=5.ckpt").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="going on from the one before"),
        pytest.raises(ValueError, match=r"no checkpoint of the runs in .*broken is whole"),
    ):
        checkpoint_to_load(options, "fit")


def test_a_new_column_keeps_every_row_at_any_moment(tmp_path, monkeypatch):
    logger = MetricsCSV(tmp_path)
    for step in range(3):
        logger.log_metrics({"a": 0.1 * step, "epoch": 0}, step)
    logger.save()
    seen = []
    replace = os.replace

    def watched(source, target):
        seen.append((read_rows(logger.path), read_rows(Path(source))))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    logger.log_metrics({"b": 7}, 3)
    logger.save()
    rows = [{"a": 0.1 * step, "epoch": 0, "step": step} for step in range(3)]
    assert seen == [(rows, rows)]
    assert read_rows(logger.path) == [*rows, {"b": 7, "step": 3}]
    assert logger.rows == 4


def test_a_line_cut_short_is_no_row(tmp_path):
    (tmp_path / "metrics.csv").write_text("a,step\n1.5,0\n2.")
    assert read_rows(tmp_path / "metrics.csv") == [{"a": 1.5, "step": 0}]


@pytest.mark.parametrize("monitor", ["eval/reward", None])
def test_the_best_so_far_stays_the_best(tmp_path, monitor):
    former = ModelCheckpoint(tmp_path / "former", monitor=monitor, mode="max")
    former.best_model_score, former.best_k_models = torch.tensor(0.9), {"a": torch.tensor(0.9)}
    former.kth_best_model_path, former.kth_value = "a", torch.tensor(0.9)
    checkpoint = {"callbacks": {former.state_key: former.state_dict()}}
    callback = ModelCheckpoint(tmp_path / "new", monitor=monitor, mode="max")
    strategy = SimpleNamespace(reduce_boolean_decision=bool)
    trainer = SimpleNamespace(checkpoint_callbacks=[callback], strategy=strategy)
    continuation = Continuation()
    continuation.on_load_checkpoint(trainer, None, checkpoint)
    with pytest.warns(UserWarning, match="The dirpath has changed"):
        callback.load_state_dict(former.state_dict())
    continuation.on_train_start(trainer, None)
    assert callback.check_monitor_top_k(trainer, torch.tensor(0.5)) == (monitor is None)
