"""A run that ends early keeps a checkpoint and says how to go on."""

import signal
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lgrpo_lightning.cli.interruption import SaveBeforeEnd, farewell
from tests.cli.running import lgrpo

INTERRUPTERS = """
import os, signal
from lightning.pytorch import Callback

class Interrupter(Callback):
    def __init__(self, name: str, step: int):
        self.name, self.step = name, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), getattr(signal, self.name))
"""
CONFIG = """
trainer:
  max_steps: 4
  val_check_interval: 4
  callbacks:
    - class_path: interrupters.Interrupter
      init_args: {name: %s, step: 3}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {every_n_train_steps: 2, save_last: true}
"""


@pytest.fixture
def ctrl_c():
    """Python's own handler: a shell's background jobs start with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_the_run_with_a_checkpoint(place, name, code):
    (place / "interrupters.py").write_text(INTERRUPTERS)
    (place / "signal.yaml").write_text(CONFIG % name)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    command = ("fit", "-c", "tiny.yaml", "-c", "signal.yaml", "--name", "stopped")
    outcome = lgrpo(*command)
    assert outcome.code == code
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    (last,) = place.glob("runs/stopped/*/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert "ended early, after optimizer step 3" in outcome.out
    assert f"last checkpoint: {last.relative_to(place)}" in outcome.out
    advice = "lgrpo fit -c tiny.yaml -c signal.yaml --name stopped --ckpt_path last"
    assert advice in outcome.out
    assert "Traceback" not in outcome.err


FLAKY = """
calls = 0

def flaky(prompts, completions, **columns):
    global calls
    calls += 1
    if calls > 2:
        raise KeyError("no such answer")
    return [0.0 for _ in completions]
"""


def test_a_failing_reward_ends_the_run_with_a_checkpoint(place):
    (place / "flaky.py").write_text(FLAKY)
    outcome = lgrpo(
        *("fit", "-c", "tiny.yaml", "--model.rewards", "[flaky.flaky]", "--trainer.max_steps", 9),
        *("--trainer.num_sanity_val_steps", 0, "--trainer.val_check_interval", 9),
    )
    assert outcome.code == 1
    assert "lgrpo: reward 'flaky' failed" in outcome.err
    assert "KeyError: 'no such answer'" in outcome.err
    assert "training_step" not in outcome.err, "the traceback of the reward is enough"
    (last,) = place.glob("runs/tiny/*/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 2
    assert "--ckpt_path last" in outcome.out


@pytest.mark.parametrize("ended", [["--ckpt_path", "old.ckpt"], ["--ckpt_path=old.ckpt"]])
def test_the_command_to_go_on_with_has_one_checkpoint(tmp_path, ended):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "last.ckpt").touch()
    arguments = ["fit", "-c", "a b.yaml", *ended, "--runs", "here"]
    said = farewell(tmp_path, SimpleNamespace(global_step=7), arguments)
    assert said.endswith("\n  lgrpo fit -c 'a b.yaml' --runs here --ckpt_path last")


def test_without_a_checkpoint_it_says_so(tmp_path):
    said = farewell(tmp_path, SimpleNamespace(global_step=0), ["fit"])
    assert said.startswith("ended early, after optimizer step 0; no checkpoint was saved.")


@pytest.mark.parametrize(
    ("processes", "exception", "saves"),
    [(1, ValueError(), True), (2, ValueError(), False), (2, SystemExit(), False)],
)
def test_processes_do_not_wait_for_each_other_to_save(processes, exception, saves):
    checkpoint = ModelCheckpoint()
    trainer = SimpleNamespace(world_size=processes, checkpoint_callbacks=[checkpoint])
    SaveBeforeEnd().on_exception(trainer, None, exception)
    assert checkpoint.save_on_exception is saves
    SaveBeforeEnd().on_exception(trainer, None, SIGTERMException())
    assert checkpoint.save_on_exception is True
