"""Trains for an hour with kills and failing rewards, and looks for leaks and lost lines.

    python -m benchmarks.soak --minutes 60

Runs of ``lgrpo fit`` on the CPU are killed with SIGKILL at random moments and resumed with
``--ckpt_path last``. One of two reward functions fails at random (it raises, hangs past its time
limit, ends its process or crashes; ``on_reward_error: skip``), an evaluation runs every
few optimizer steps. Meanwhile memory, open files and processes are counted. At the end the logs of
the last run have to hold every optimizer step once.

Memory is the resident set of the training process and of its workers, each compared with itself:
the median of the last fifth of a run's samples against that of the fifth that follows the warm-up.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgrpo_callbacks import read_jsonl
from lgrpo_lightning.cli.metrics_csv import read_rows

ROOT = Path(__file__).parents[1]
MARK = "LGRPO_SOAK"  # in the environment of every process that belongs to the soak
WARM_UP = 90.0  # seconds until a run's memory counts
BETWEEN = 2.0  # seconds between two looks
COMPLETIONS_PER_STEP = 8
STEPS_PER_EVALUATION = 12
REWARDS = '''
import os, random, signal, time

def sometimes(prompts, completions, **columns):
    """Fails in one of fifty calls, in one of four ways."""
    luck = random.random()
    if luck < 0.005:
        raise RuntimeError("out of luck")
    if luck < 0.010:
        time.sleep(60)
    if luck < 0.015:
        os._exit(3)
    if luck < 0.020:
        os.kill(os.getpid(), signal.SIGSEGV)
    return [len(text) / 100 for text in completions]
'''
CONFIG = """
threads: 1
trainer:
  accelerator: cpu
  devices: 1
  max_steps: 1000000
  accumulate_grad_batches: 2
  gradient_clip_val: 1.0
  val_check_interval: {val_check_interval}
  check_val_every_n_epoch: null
  num_sanity_val_steps: -1
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lgrpo_callbacks.KLTracker
    - class_path: lgrpo_callbacks.RewardEvaluator
    - class_path: lgrpo_callbacks.CompletionLogger
    - class_path: lgrpo_callbacks.ProcessTreeMonitor
      init_args: {{every_n_steps: 20}}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{every_n_train_steps: 5, save_last: true}}
model:
  policy: {{path: {root}/assets/tiny-addition}}
  rewards: [lgrpo_lightning.rewards.boxed_match_reward, rewards.sometimes]
  on_reward_error: skip
  reward_time_limit: 2.0
  group_size: 4
  micro_batch_size: 4
  num_iterations: 2
  sampling: {{max_new_tokens: 32}}
  evaluation: {{max_new_tokens: 32, temperature: 0.0}}
  loss: {{kl_coef: 0.04}}
  optimizer:
    class_path: torch.optim.AdamW
    init_args: {{lr: 1.0e-5, weight_decay: 0.0}}
data:
  path: {root}/assets/addition/train.jsonl
  eval_path: {root}/assets/addition/heldout.jsonl
  prompts_per_rollout: 4
  eval_limit: 16
"""


@dataclass
class Look:
    """What is there at one moment of a run."""

    seconds: float
    memory: int  # bytes, of the training process
    files: int
    children: int
    workers_memory: int


def main() -> None:
    """Run the soak; the last line of the output is its result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=12.0, help="minutes until a kill, at most")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        (folder / "rewards.py").write_text(REWARDS)
        interval = 2 * STEPS_PER_EVALUATION
        (folder / "soak.yaml").write_text(CONFIG.format(root=ROOT, val_check_interval=interval))
        end = time.monotonic() + 60 * options.minutes
        rows: list[dict[str, Any]] = []
        while (left := end - time.monotonic()) > 0:
            # Short ones find moments, long ones find leaks.
            lives = chance.choice(
                [chance.uniform(40, 120), 60 * chance.uniform(3, options.longest)]
            )
            last = left < lives + 60
            rows.append(one_run(folder, left if last else lives, last, bool(rows)))
            print_row(len(rows), rows[-1])
        checks = check_logs(folder)
    growths = [row["growth"] for row in rows if row["growth"] is not None]
    worker_growths = [row["worker_growth"] for row in rows if row["worker_growth"] is not None]
    result = {
        "minutes": options.minutes,
        "kills": sum(row["killed"] for row in rows),
        "largest_growth": max(growths, default=None),
        "largest_worker_growth": max(worker_growths, default=None),
        "more_files": max(row["more_files"] for row in rows),
        "more_children": max(row["more_children"] for row in rows),
        "left_processes": sum(row["left"] for row in rows),
        **checks,
    }
    print(json.dumps(result))
    bad = result["left_processes"] or result["more_files"] > 0 or result["more_children"] > 0
    bad = bad or (max(growths + worker_growths, default=0) > 0.05) or checks["problems"]
    sys.exit(1 if bad else 0)


def one_run(folder: Path, seconds: float, last: bool, resume: bool) -> dict[str, Any]:
    """Train for some time; end by SIGKILL, the last run by SIGTERM."""
    environment = {
        **os.environ,
        MARK: folder.name,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "callbacks")]),
    }
    command = [sys.executable, "-m", "lgrpo_lightning", "fit", "-c", "soak.yaml"]
    begun = time.monotonic()
    with (folder / "output.txt").open("a") as output:
        process = subprocess.Popen(
            command + (["--ckpt_path", "last"] if resume and has_checkpoint(folder) else []),
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
        )
        looks = []
        while (now := time.monotonic() - begun) < seconds and process.poll() is None:
            looks.append(look(process.pid, now))
            time.sleep(BETWEEN)
        killed = process.poll() is None and not last
        if process.poll() is not None:
            print((folder / "output.txt").read_text()[-3000:])
            raise RuntimeError(f"the run ended by itself with {process.returncode}")
        process.send_signal(signal.SIGTERM if last else signal.SIGKILL)
        process.wait()
    time.sleep(3.0)  # workers notice within half a second
    counted = [entry for entry in looks if entry is not None and entry.seconds >= WARM_UP]
    return {
        "seconds": seconds,
        "killed": killed,
        "code": process.returncode,
        "step": newest_step(folder),
        "memory": counted[-1].memory if counted else None,
        "growth": growth([entry.memory for entry in counted]),
        "worker_growth": growth([entry.workers_memory for entry in counted]),
        "more_files": more([entry.files for entry in counted]),
        "more_children": more([entry.children for entry in counted]),
        "left": len(processes_of(folder.name)),
    }


def look(process: int, seconds: float) -> Look | None:
    """Count what a training process has; None where it has just ended."""
    try:
        workers = children(process)
        return Look(
            seconds,
            resident(process),
            len(os.listdir(f"/proc/{process}/fd")),
            len(workers),
            sum(map(resident, workers)),
        )
    except (FileNotFoundError, ProcessLookupError):
        return None


def resident(process: int) -> int:
    """Bytes of memory a process holds."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def children(process: int) -> list[int]:
    """Processes that a process has started and not yet waited for."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def processes_of(name: str) -> list[int]:
    """Living processes of this soak, this one aside."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={name}".encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def growth(values: list[int]) -> float | None:
    """By which share the last fifth is above the first; None for less than 25 looks."""
    fifth = len(values) // 5
    if fifth < 5:
        return None
    first, last = statistics.median(values[:fifth]), statistics.median(values[-fifth:])
    return last / first - 1


def more(counts: list[int]) -> int:
    """By how many the usual number in the last fifth is above that in the first."""
    fifth = len(counts) // 5
    if fifth < 5:
        return 0
    return int(statistics.median_low(counts[-fifth:]) - statistics.median_high(counts[:fifth]))


def has_checkpoint(folder: Path) -> bool:
    """Whether any run has one."""
    return any(folder.glob("runs/soak/*/checkpoints/*.ckpt"))


def newest_step(folder: Path) -> int:
    """The optimizer step of the newest checkpoint."""
    names = [path.stem for path in folder.glob("runs/soak/*/checkpoints/epoch*.ckpt")]
    return max((int(name.rpartition("step=")[2].split("-")[0]) for name in names), default=0)


def check_logs(folder: Path) -> dict[str, Any]:
    """Whether the last run's logs have every optimizer step once, and every evaluation is there."""
    runs = sorted(folder.glob("runs/soak/*/"), key=lambda run: run.stat().st_ctime_ns)
    rows = read_rows(runs[-1] / "metrics.csv")
    steps = [row["step"] for row in rows if "train/loss" in row]
    evaluated = [row["step"] for row in rows if "eval/reward" in row and row["step"]]
    problems = []
    total = len(steps)
    if steps != list(range(total)):
        problems.append("metrics.csv: steps are not 0, 1, 2, …")
    wanted = list(range(STEPS_PER_EVALUATION - 1, total, STEPS_PER_EVALUATION))
    if [step for step in wanted if step < total - 1] != [s for s in evaluated if s < total - 1]:
        problems.append("metrics.csv: evaluations are missing or doubled")
    lines = read_jsonl(runs[-1] / "completions" / "rank-0.jsonl")
    per_step = Counter(line["step"] for line in lines)
    if per_step != dict.fromkeys(range(1, total + 1), COMPLETIONS_PER_STEP):
        problems.append("completions: not as many lines for each step")
    trees = {line["step"] for line in read_jsonl(runs[-1] / "trees" / "rank-0.jsonl")}
    if not trees or max(trees) > total:
        problems.append("trees: none, or of steps that were not made")
    files = {path.name for run in runs for path in run.glob("evaluations/*.jsonl")}
    missing = {f"validation-step-{step + 1:08d}.jsonl" for step in evaluated} - files
    if missing:
        problems.append(f"evaluations: {len(missing)} files are missing")
    errors = [row["step"] for row in rows if row.get("train/reward_errors/sometimes", 0) > 0]
    return {
        "steps": total,
        "evaluations": len(evaluated),
        "completions": len(lines),
        "steps_with_reward_errors": len(errors),
        "problems": problems,
    }


def print_row(number: int, row: dict[str, Any]) -> None:
    """A line of the table."""
    if number == 1:
        print("run  seconds  ended    step  MiB    growth  workers  files  children  left over")

    def share(value: float | None) -> str:
        return "      –" if value is None else f"{value:+7.1%}"

    memory = "    –" if row["memory"] is None else f"{row['memory'] / 2**20:5.0f}"
    print(
        f"{number:3d}  {row['seconds']:7.0f}  {'SIGKILL' if row['killed'] else 'SIGTERM'}  "
        f"{row['step']:5d}  {memory}  {share(row['growth'])}  {share(row['worker_growth'])}  "
        f"{row['more_files']:+5d}  {row['more_children']:+8d}  {row['left']:9d}",
        flush=True,
    )


if __name__ == "__main__":
    main()
