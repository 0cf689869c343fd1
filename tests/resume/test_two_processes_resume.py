"""Two processes: exact at the boundary of rollouts, announced inside one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.module.runs import equal

SCRIPT = Path(__file__).with_name("two_processes.py")
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_exact_between_rollouts_and_announced_inside_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPT, tmp_path],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'callbacks'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2))
    for name in ("whole", 2, 4):
        assert equal(first[name][0], second[name][0]), "the processes have the same weights"
    assert equal(first[4][0], first["whole"][0])
    assert "sampling anew" not in first[4][1]
    assert "resuming inside rollout 0 of epoch 0 without its completions" in first[2][1]
