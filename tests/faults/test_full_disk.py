"""A disk that is full while a run writes: it ends with one line, and what was saved is whole."""

import resource

import pytest
import torch

from tests.cli.running import config, lgrpo

FULL = """
import resource
from lightning.pytorch import Callback

class DiskFull(Callback):
    '''After the first optimizer step no file can grow beyond some size.'''

    def __init__(self, size: int):
        self.size = size

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))
"""
CONFIG = """
trainer:
  callbacks:
    - class_path: full.DiskFull
      init_args: {size: %d}
    - class_path: lgrpo_callbacks.CompletionLogger
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {every_n_train_steps: 1, save_last: true}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a config; files may grow again afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.chdir(tmp_path)
    config(tmp_path)
    (tmp_path / "full.py").write_text(FULL)
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (
            400_000,
            "lgrpo: the checkpoint {run}/checkpoints/epoch=0-step=2.ckpt cannot be written: ",
        ),
        pytest.param(
            100,
            "lgrpo: a log or history cannot be written: File too large. Make room, then go on",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["checkpoint", "completions"],
)
def test_it_ends_the_run_and_leaves_the_checkpoint_before(place, size, said):
    (place / "full.yaml").write_text(CONFIG % size)
    outcome = lgrpo(
        *("fit", "-c", "tiny.yaml", "-c", "full.yaml", "--trainer.logger", "false"),
        *("--trainer.num_sanity_val_steps", 0),
    )
    assert outcome.code == 1
    (run,) = (place / "runs" / "tiny-full").iterdir()
    assert said.format(run=run) in outcome.err
    assert "Traceback" not in outcome.err
    for path in run.glob("checkpoints/*"):
        assert torch.load(path, weights_only=True)["global_step"] == 1
    assert "go on with:\n  lgrpo fit -c tiny.yaml -c full.yaml" in outcome.out
