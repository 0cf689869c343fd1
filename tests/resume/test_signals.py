"""Signals that come at the worst moment: while the optimizer changes the weights."""

import os
import signal

import pytest
import torch

from tests.cli.running import config, lgrpo
from tests.resume.comparing import equal, final_state

OPTIMIZER = """
import os, signal, torch

class Interrupted(torch.optim.AdamW):
    '''Sends a signal when half of the weights of a step are changed.'''

    def __init__(self, params, lr: float):
        params = list(params)
        super().__init__([{"params": params[::2]}, {"params": params[1::2]}], lr=lr)
        self.steps = 0

    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        groups = self.param_groups
        self.steps += 1
        self.param_groups = groups[:1]
        super().step()
        name, _, number = os.environ.get("INTERRUPT", "").partition(" ")
        if number == str(self.steps):
            os.kill(os.getpid(), getattr(signal, name))
        self.param_groups = groups[1:]
        super().step()
        self.param_groups = groups
        return loss
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a config and the optimizer; Ctrl-C as in a terminal."""
    monkeypatch.chdir(tmp_path)
    config(tmp_path)
    (tmp_path / "half.py").write_text(OPTIMIZER)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield tmp_path
    signal.signal(signal.SIGINT, before)


def fit(name, *options):
    """4 optimizer steps; what INTERRUPT says comes in the midst of one of them."""
    return lgrpo(
        *("fit", "-c", "tiny.yaml", "--name", name, "--trainer.max_steps", 4),
        *("--trainer.num_sanity_val_steps", 0, "--model.optimizer", "half.Interrupted"),
        *("--model.optimizer.lr", 0.001, *options),
    )


def last_run(place, name):
    return max((place / "runs" / name).iterdir(), key=lambda run: run.stat().st_ctime_ns)


@pytest.mark.parametrize(
    ("name", "code"), [("SIGINT", 130), pytest.param("SIGTERM", 143, marks=pytest.mark.slow)]
)
def test_the_weights_that_are_saved_are_of_a_whole_step(place, monkeypatch, name, code):
    outcome = fit("whole")
    assert outcome.code == 0, outcome.err
    monkeypatch.setenv("INTERRUPT", f"{name} 3")
    outcome = fit("stopped")
    assert outcome.code == code, outcome.err
    saved = torch.load(last_run(place, "stopped") / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    monkeypatch.delenv("INTERRUPT")
    outcome = fit("stopped", "--ckpt_path", "last")
    assert outcome.code == 0, outcome.err
    found, expected = (final_state(last_run(place, run)) for run in ("stopped", "whole"))
    assert equal(found, expected)


SCONTROL = """#!/bin/sh
echo "$@" > requeued.txt
"""
SLURM = {
    "SLURM_NTASKS": "1",
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "train",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


def test_a_requeued_slurm_job_goes_on_exactly(place, monkeypatch):
    (place / "scontrol").write_text(SCONTROL)
    (place / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    assert fit("whole").code == 0
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    # SLURM ends the job soon after; this one comes to its end.
    monkeypatch.setenv("INTERRUPT", "SIGUSR1 2")
    outcome = fit("job")
    assert outcome.code == 0, outcome.err
    assert (place / "requeued.txt").read_text() == "requeue 77\n"
    (saved,) = place.glob("runs/job/*-job-77/hpc_ckpt_1.ckpt")
    assert torch.load(saved, weights_only=True)["global_step"] == 2
    monkeypatch.delenv("INTERRUPT")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    outcome = fit("job")
    assert outcome.code == 0, outcome.err
    assert "hpc_ckpt_1.ckpt" in outcome.err
    assert equal(final_state(last_run(place, "job")), final_state(last_run(place, "whole")))
