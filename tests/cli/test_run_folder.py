"""Every run has a folder of its own, for all that it writes."""

import hashlib
import os
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from lgrpo_callbacks import read_jsonl
from lgrpo_lightning.cli.run_folder import (
    is_first_process,
    last_checkpoints,
    new_run_folder,
    requeued_checkpoint,
    run_folder,
)
from tests.cli.running import lgrpo

NOON = datetime(2026, 1, 2, 12, 0, 0)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_leaves_everything_in_its_folder(trained):
    found = files(trained.run)
    assert found >= {
        "config.yaml",
        "metrics.csv",
        "hparams.yaml",
        "checkpoints/last.ckpt",
        "checkpoints/epoch=0-step=2.ckpt",
        "completions/rank-0.jsonl",
        "evaluations/validation-step-00000000.jsonl",
        "evaluations/validation-step-00000002.jsonl",
    }
    assert any(name.startswith("events.out.tfevents") for name in found)
    assert "train/reward" in (trained.run / "metrics.csv").read_text()
    written = yaml.safe_load((trained.run / "config.yaml").read_text())
    assert written["name"] == "tiny"
    assert written["model"]["group_size"] == 2


def test_a_second_run_leaves_the_first_alone(place):
    def digests(folder):
        return {name: hashlib.md5((folder / name).read_bytes()).digest() for name in files(folder)}

    short = (
        "fit",
        "-c",
        "tiny.yaml",
        "--trainer.max_steps",
        1,
        "--trainer.num_sanity_val_steps",
        0,
    )
    assert lgrpo(*short).code == 0
    (first,) = place.glob("runs/tiny/*")
    before = digests(first)
    assert lgrpo(*short).code == 0
    assert len(list(place.glob("runs/tiny/*"))) == 2
    assert digests(first) == before


def test_runs_of_one_second_do_not_collide(tmp_path):
    folders = [new_run_folder(tmp_path, "a", "fit", NOON) for _ in range(3)]
    names = [folder.name for folder in folders]
    assert names == ["2026-01-02_12-00-00", "2026-01-02_12-00-00-2", "2026-01-02_12-00-00-3"]
    assert new_run_folder(tmp_path, "a", "test", NOON).name == "2026-01-02_12-00-00-test"


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, True),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, False),  # started by Lightning's launcher
        ({"NODE_RANK": "1"}, False),  # the first of another machine
        ({"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}, True),  # torchrun
        ({"RANK": "8", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, False),
        ({"SLURM_PROCID": "0"}, True),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_only_the_first_process_makes_the_folder(tmp_path, monkeypatch, environment, first):
    assert is_first_process(environment) is first
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    folder = run_folder(tmp_path, "a", "fit")
    assert folder.is_dir() is first
    if not first:
        assert folder == tmp_path / "a"


def test_a_requeued_job_finds_what_it_saved(tmp_path):
    for second, job in enumerate(("7", "7", "8")):
        folder = new_run_folder(tmp_path, "a", "fit", NOON, job)
        (folder / "hpc_ckpt_1.ckpt").touch()
        os.utime(folder / "hpc_ckpt_1.ckpt", (second, second))
    again = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}
    found = requeued_checkpoint(tmp_path, "a", again)
    assert found is not None
    assert found.parent.name == "2026-01-02_12-00-00-2-job-7"
    assert requeued_checkpoint(tmp_path, "a", {"SLURM_JOB_ID": "7"}) is None
    assert requeued_checkpoint(tmp_path, "a", {}) is None
    assert requeued_checkpoint(tmp_path, "other", again) is None


def test_the_last_checkpoint_is_that_written_last(tmp_path):
    for number, name in enumerate(("early", "late", "empty")):
        folder = tmp_path / "a" / name / "checkpoints"
        folder.mkdir(parents=True)
        for file in () if name == "empty" else ("step=9.ckpt", "last.ckpt"):
            (folder / file).touch()
            os.utime(folder / file, (number, number))
    assert (
        last_checkpoints(tmp_path, "a")[0] == tmp_path / "a" / "late" / "checkpoints" / "last.ckpt"
    )
    with pytest.raises(ValueError, match=r"--ckpt_path last: no run in .*b has a checkpoint"):
        last_checkpoints(tmp_path, "b")


LOGGERS = """
trainer:
  logger:
    - class_path: my_loggers.Diary
    - class_path: lightning.pytorch.loggers.CSVLogger
      init_args: {save_dir: ., name: csv, version: ''}
"""
DIARY = '''
from pathlib import Path
from lightning.pytorch.loggers import CSVLogger, Logger

class Diary(Logger):
    """Like WandbLogger, it writes to the working directory unless told otherwise."""

    def __init__(self, save_dir: str = "."):
        super().__init__()
        self._folder = Path(save_dir)
        (self._folder / "diary").mkdir()

    name, version = "diary", "1"
    save_dir = property(lambda self: str(self._folder))

    def log_metrics(self, metrics, step=None): ...
    def log_hyperparams(self, *args, **kwargs): ...
'''


def test_loggers_of_a_config_write_into_the_run_folder_too(place):
    (place / "my_loggers.py").write_text(DIARY)
    (place / "loggers.yaml").write_text(LOGGERS)
    outcome = lgrpo("fit", "-c", "tiny.yaml", "-c", "loggers.yaml")
    assert outcome.code == 0, outcome.err
    (run,) = place.glob("runs/tiny-loggers/*")
    assert (run / "diary").is_dir()
    assert files(run) >= {
        "config.yaml",
        "csv/metrics.csv",
        "checkpoints/last.ckpt",
        "completions/rank-0.jsonl",
        "evaluations/validation-step-00000002.jsonl",
    }
    others = {"tiny.yaml", "my_loggers.py", "loggers.yaml", "runs", "__pycache__"}
    assert {path.name for path in place.iterdir()} <= others
    # What another run with this config will do is not tied to this run's folder.
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["trainer"]["logger"][0]["init_args"]["save_dir"] == "."


def test_without_loggers_files_go_to_the_run_folder(place):
    outcome = lgrpo("fit", "-c", "tiny.yaml", "--trainer.logger", "false")
    assert outcome.code == 0, outcome.err
    (run,) = place.glob("runs/tiny/*")
    found = files(run)
    assert found >= {"config.yaml", "checkpoints/last.ckpt", "completions/rank-0.jsonl"}
    assert not any("tfevents" in name or name == "metrics.csv" for name in found)
    assert "tensorboard" not in outcome.out
    assert len(read_jsonl(run / "completions" / "rank-0.jsonl")) == 8


def test_a_trial_run_leaves_no_checkpoint(place):
    outcome = lgrpo("fit", "-c", "tiny.yaml", "--trainer.fast_dev_run", "true")
    assert outcome.code == 0, outcome.err
    assert "finished at optimizer step 1" in outcome.out
    assert not list(place.glob("runs/**/*.ckpt"))
