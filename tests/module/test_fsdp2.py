"""FSDP2 on two processes: trains like DDP, and its checkpoints are read elsewhere."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.module.runs import ADDITION, HELD_OUT, equal, make_data, make_module, make_trainer
from tests.module.sharded import CASES, RESUMED

SCRIPT = Path(__file__).with_name("sharded.py")
ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    both = subprocess.Popen(
        [sys.executable, "-W", "ignore", SCRIPT, folder, ADDITION],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'callbacks'}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = both.communicate(timeout=240)
    finally:
        with contextlib.suppress(ProcessLookupError):  # processes that wait for one another
            os.killpg(both.pid, signal.SIGKILL)
    assert both.returncode == 0, output[-4000:]
    return folder, *(torch.load(folder / f"rank-{rank}.pt") for rank in range(2))


def difference(left, right):
    """The largest relative to the largest weight."""
    assert left.keys() == right.keys()
    largest = max(float(value.abs().max()) for value in right.values())
    return max(float((left[name] - right[name]).abs().max()) for name in right) / largest


@pytest.mark.parametrize("case", CASES)
def test_it_trains_like_ddp(runs, case):
    _, first, second = runs
    for found in (first, second):
        assert found[case, "fsdp2"]["trained"] == found[case, "ddp"]["trained"]
        assert found[case, "fsdp2"]["evaluated"] == found[case, "ddp"]["evaluated"]
    expected = first[case, "ddp"]["weights"]
    start = make_module(policy=CASES[case].get("policy"))
    start.configure_model()
    moved = difference({n: v.detach() for n, v in start.state_dict().items()}, expected)
    assert difference(first[case, "fsdp2"]["weights"], expected) < 1e-3 * moved


def test_processes_sampled_different_lengths(runs):
    _, first, second = runs
    for stage in ("trained", "evaluated"):
        lengths = [run["full", "fsdp2"][stage] for run in (first, second)]
        longest = [[int(torch.tensor(batch).max()) for batch in run] for run in lengths]
        assert longest[0] != longest[1]
    rows = [[len(batch) for batch in run["full", "fsdp2"]["evaluated"]] for run in (first, second)]
    assert rows == [[2, 2], [3, 3]]  # the evaluation set is uneven, too


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("strategy", "writer"), RESUMED)
def test_it_goes_on_from_checkpoints(runs, case, strategy, writer):
    _, first, _ = runs
    resumed = first[case, f"{strategy} from {writer}"]["weights"]
    if strategy == writer:
        assert equal(resumed, first[case, strategy]["weights"])
    else:
        assert difference(resumed, first[case, writer]["weights"]) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_its_checkpoint_is_read_by_one_process(runs, case, tmp_path):
    folder, first, _ = runs
    module = make_module(**CASES[case])
    trainer = make_trainer(tmp_path)
    path = folder / case / "fsdp2" / f"step={4}.ckpt"
    trainer.validate(module, make_data(eval_path=HELD_OUT), ckpt_path=path, weights_only=True)
    assert equal(
        {name: value.detach() for name, value in module.state_dict().items()},
        first[case, "fsdp2"]["weights"],
    )


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_precisions(runs, precision):
    _, first, _ = runs
    weights = first["full", precision]["weights"]
    assert {value.dtype for value in weights.values()} == {
        torch.bfloat16 if precision == "bf16-true" else torch.float32
    }
    assert all(torch.isfinite(value).all() for value in weights.values())
