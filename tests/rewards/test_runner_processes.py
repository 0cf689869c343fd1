"""Workers come up light, and never outlive their runner."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lgrpo_lightning.rewards import RewardError, RewardRunner

ROOT = Path(__file__).parents[2]
SAMPLES = Path(__file__).with_name("sample_rewards.py")
SCRIPT = f"""\
import os, sys, time
from lgrpo_lightning.rewards import RewardRunner
runner = RewardRunner(["{SAMPLES}:process_ids", "{SAMPLES}:backtracks"], time_limit=2.0)
handle = runner.submit(["?"], ["x"], [[1]], {{}})
pids = [lane.worker._process.pid for f in runner._functions for lane in f.lanes]
print(*pids, flush=True)
"""


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie whose parent has ended and that nobody reaps is dead, too.
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def assert_gone(*pids, seconds=5.0):
    deadline = time.monotonic() + seconds
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, f"still alive: {[p for p in pids if is_alive(p)]}"
        time.sleep(0.02)


def worker_ids(runner):
    return [lane.worker._process.pid for function in runner._functions for lane in function.lanes]


def run_script(code, cwd, **options):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    (cwd / "script.py").write_text(code)
    return subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def test_import_is_light():
    code = (
        "import sys, lgrpo_lightning.rewards, lgrpo_lightning.rewards.runner.worker\n"
        "heavy = {'torch', 'transformers', 'lightning', 'numpy', 'math_verify', 'sympy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_worker_starts_in_less_than_a_second(make_runner):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        make_runner("lengths")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0  # 0.07 s on a free machine


def test_close_ends_all_workers_and_the_next_call_starts_them(make_runner, score):
    runner = make_runner("process_ids", "process_ids_each", workers_per_function=2)
    score(runner, ["a"] * 4)
    pids = worker_ids(runner)
    assert len(pids) == 3
    runner.close()
    assert_gone(*pids, seconds=0.1)
    runner.close()
    assert score(runner, ["a"]).per_function["process_ids"][0] not in pids


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_close_ends_a_call_under_way(make_runner, on_error):
    runner = make_runner("ignores_signals", "culprits", time_limit=60.0, on_error=on_error)
    handle = runner.submit(["?"], ["hang"], [[1]], {})
    time.sleep(0.2)
    start = time.perf_counter()
    pids = worker_ids(runner)
    runner.close()
    assert_gone(*pids, seconds=0.1)
    with pytest.raises(RewardError, match="the runner was closed"):
        handle.result()
    assert time.perf_counter() - start < 2.0


def test_closed_worker_ends_in_good_order(make_runner, spec, tmp_path):
    make_runner(spec("Diary", arguments={"path": str(tmp_path / "diary")})).close()
    assert (tmp_path / "diary").read_text() == "the end"


def test_context_manager_and_garbage_collection_end_workers(sample):
    with RewardRunner([sample("lengths")]) as runner:
        pids = worker_ids(runner)
    assert_gone(*pids, seconds=0.1)
    runner = RewardRunner([sample("lengths")])
    pids = worker_ids(runner)
    del runner
    gc.collect()
    assert_gone(*pids, seconds=0.1)


def test_handle_keeps_its_runner_alive(sample):
    handle = RewardRunner([sample("slow")]).submit(["?"], ["a"], [[1]], {})
    gc.collect()
    assert handle.result().errors == {"slow": 0}


def test_failed_construction_leaves_no_worker(sample):
    def workers():
        return {int(p) for p in os.listdir("/proc") if p.isdigit() and is_mine(int(p))}

    def is_mine(pid):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        return int(stat.rpartition(")")[2].split()[1]) == os.getpid()

    if not Path("/proc").exists():
        pytest.skip("needs /proc")
    before = workers()
    with pytest.raises(ValueError, match="has no 'nothing'"):
        RewardRunner([sample("lengths"), sample("nothing"), sample("slow")])
    assert workers() <= before


@pytest.mark.parametrize("how", ["kill", "exit", "exception"])
def test_workers_end_with_the_program(tmp_path, how):
    """Also a worker that holds the interpreter lock, by its own alarm."""
    ends = {"kill": "time.sleep(60)", "exit": "sys.exit()", "exception": "1 / 0"}
    script = run_script(SCRIPT + ends[how], tmp_path, stderr=subprocess.DEVNULL)
    pids = [int(pid) for pid in script.stdout.readline().split()]
    assert len(pids) == 2
    if how == "kill":
        assert all(map(is_alive, pids))
        os.kill(script.pid, signal.SIGKILL)
    script.wait(timeout=20)
    script.stdout.close()
    assert_gone(*pids)


def test_script_without_a_main_guard(tmp_path):
    code = (
        "from lgrpo_lightning.rewards import RewardRunner, boxed_match_reward\n"
        "print('running')\n"
        "runner = RewardRunner([boxed_match_reward])\n"
        "print(runner.score(['?'], [r'\\boxed{4}'], [[1]], {'answer': ['4']}).total)\n"
    )
    output, _ = run_script(code, tmp_path).communicate(timeout=60)
    assert output.splitlines() == ["running", "[1.0]"]


def test_own_function_of_a_script_is_refused(tmp_path):
    code = (
        "from lgrpo_lightning.rewards import RewardRunner\n"
        "def mine(completions): return [1.0] * len(completions)\n"
        "try:\n"
        "    RewardRunner([mine])\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    output, _ = run_script(code, tmp_path).communicate(timeout=60)
    assert "'mine' belongs to the main script" in output


def test_what_a_function_prints_passes_through(make_runner, score, capfd):
    score(make_runner("prints"), ["a"])
    printed = capfd.readouterr()
    assert printed.out == "printed by the reward\n"
    assert printed.err == "complained by the reward\n"


def test_programs_a_function_starts_end_with_it(make_runner, score, tmp_path):
    runner = make_runner("starts_a_program", on_error="skip", time_limit=0.5)
    score(runner, [str(tmp_path / "pid")])
    assert_gone(int((tmp_path / "pid").read_text()), seconds=1.0)


def test_fork_neither_uses_nor_ends_the_workers(make_runner, score):
    runner = make_runner("process_ids")
    pid = score(runner, ["a"]).total
    child = os.fork()
    if child == 0:
        status = 1
        try:
            runner.score(["?"], ["a"], [[1]], {})
        except RuntimeError:
            runner.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert score(runner, ["a"]).total == pid
