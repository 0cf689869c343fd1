import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.module.two_processes import CASES, gradients

SCRIPT = Path(__file__).with_name("two_processes.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def runs(folder, gpt2):
    both = subprocess.Popen(
        [sys.executable, "-W", "ignore", SCRIPT, folder, gpt2],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    alone = gradients(folder, gpt2, 1, 16)
    output, _ = both.communicate(timeout=200)
    assert both.returncode == 0, output[-4000:]
    return alone, *(torch.load(folder / f"rank-{rank}.pt") for rank in range(2))


@pytest.fixture(scope="module")
def sampled(runs, folder):
    return [torch.load(folder / f"sampled-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_one_process(runs, case):
    (expected, _), (first, _), (second, _) = (run[case] for run in runs)
    assert torch.equal(first, second)
    assert expected[0].norm() > 1e-3
    assert (first - expected).norm() / expected.norm() < 1e-10


def test_the_figures_are_those_of_one_process(runs):
    for case in CASES:
        (_, expected), (_, first), (_, second) = (run[case] for run in runs)
        assert first == second
        assert first == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_completions_of_different_lengths_and_an_uneven_evaluation_set_finish(sampled):
    for stage in ("trained", "evaluated"):
        longest = [[max(batch) for batch in run[stage]] for run in sampled]
        assert longest[0] != longest[1]
    assert [[len(batch) for batch in run["evaluated"]] for run in sampled] == [[2, 2], [3, 3]]
