"""λ-GRPO against GRPO at 46 M parameters, on one GPU and within a budget of time.

A Llama is pretrained on worked additions in which three of five carries are forgotten; then both
methods train it from there, seed by seed and for each learning rate, with LambdaGRPO under
Lightning's Trainer, several runs at a time on the one device. Measured: held-out pass@1 sampled at
temperature 1, by optimizer steps; and what the process sets cost, alone on the device. What is not
finished when the time is over is left out, and so is a seed of which one method is missing. It has
been tried on a CPU at the scale "tiny"; it has not been run on a GPU yet.

    python -m benchmarks.gpu_study --seconds 240
    python -m benchmarks.gpu_study --seconds 60 --scale tiny      # to try it out on a CPU

Prints a row for each run, tables of paired differences with 95 % intervals, and a line of JSON.
"""

import argparse
import json
import logging
import multiprocessing
import queue
import tempfile
import time
import traceback
import warnings
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.gpu_study_runs import (
    CUDA,
    SCALES,
    Job,
    Scale,
    lambda_cost,
    pretrain,
    train,
    write_problems,
)
from lgrpo_lightning.study.intervals import mean_estimate
from lgrpo_lightning.study.method_report import steps_to
from lgrpo_lightning.study.tables import markdown_table

METHODS = {True: "λ-GRPO", False: "GRPO"}
LEVELS = (0.5, 0.9)
MARGIN = 6.0  # seconds kept for the report

Record = dict[str, Any]


def work(scale: Scale, folder: Path, options: Record, jobs: Any, results: Any) -> None:  # noqa: ANN401
    """Work off jobs in this process for as long as one more can be expected to end in time."""
    quiet()
    longest = 0.0
    options["ready"].wait()
    while time.time() + longest < options["deadline"]:
        try:
            job = jobs.get_nowait()
        except queue.Empty:
            break
        try:
            record, _ = train(scale, folder, job, options["engine"], options["sampler"])
            longest = max(longest, record["seconds"])
            results.put({**asdict(job), **record})
        except Exception:  # one failed run shall not take the others with it
            results.put({**asdict(job), "error": traceback.format_exc()})
    results.put(None)


def quiet() -> None:
    """One thread, and no advice from libraries between the rows."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    warnings.simplefilter("ignore")
    disable_progress_bar()  # type: ignore[no-untyped-call]
    for name in ("lightning.pytorch", "lightning.fabric", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


def collect(results: Any, workers: int, deadline: float) -> list[Record]:  # noqa: ANN401
    """Print results as they come, until all workers are done or the time is over."""
    records = []
    while workers and (left := deadline - time.time()) > 0:
        try:
            record = results.get(timeout=left)
        except queue.Empty:
            break
        if record is None:
            workers -= 1
            continue
        name = f"lr {record['rate']:g}  seed {record['seed']}  {METHODS[record['scaling']]:<7}"
        if "error" in record:
            print(f"{name} failed:\n{record['error']}", flush=True)
            continue
        records.append(record)
        shown = " ".join(f"{value:.3f}" for _, value in record["curve"])
        print(
            f"{name} {record['seconds']:5.1f} s, {record['step_seconds']:.2f} s/step: {shown}",
            flush=True,
        )
    return records


def measures(curve: list[list[float]]) -> dict[str, float]:
    """What a run is judged by."""
    values = [value for _, value in curve]
    return {
        **{f"steps to {level:g}": steps_to(curve, level) for level in LEVELS},
        "mean over all steps": fmean(values),
        "peak": max(values),
        "final": values[-1],
    }


def report(records: list[Record], rate: float) -> str:
    """The table of one learning rate: means over the seeds that both methods have finished."""
    curves = {(r["seed"], r["scaling"]): r["curve"] for r in records if r["rate"] == rate}
    seeds = [seed for seed, scaling in curves if scaling and (seed, False) in curves]
    if not seeds:
        return f"lr {rate:g}: no seed was finished by both methods"
    found = {
        scaling: [measures(curves[seed, scaling]) for seed in sorted(seeds)] for scaling in METHODS
    }
    rows = []
    for name in found[True][0]:
        ours, plain = ([run[name] for run in found[scaling]] for scaling in (True, False))
        difference = mean_estimate([a - b for a, b in zip(ours, plain, strict=True)])
        digits = 1 if name.startswith("steps") else 3
        estimates = (mean_estimate(plain).text(digits), mean_estimate(ours).text(digits))
        rows.append([name, *estimates, difference.text(digits, sign=True)])
    head = ["", METHODS[False], METHODS[True], "difference, paired"]
    return f"lr {rate:g}, {len(seeds)} seeds\n\n{markdown_table(head, rows)}"


def main() -> None:
    """Pretrain, time, train in parallel, report."""
    start = time.time()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=240, help="for everything")
    parser.add_argument("--scale", choices=SCALES, default="46M")
    parser.add_argument("--processes", type=int, default=6, help="runs at a time")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[1e-5, 3e-5], help="learning rates"
    )
    parser.add_argument("--engine", choices=["padded", "tree"], default="padded")
    parser.add_argument("--sampler", choices=["shared_prefix", "hf"], default="shared_prefix")
    arguments = parser.parse_args()
    scale: Scale = SCALES[arguments.scale]
    quiet()
    context = multiprocessing.get_context("spawn")
    jobs, results, ready = context.Queue(), context.Queue(), context.Event()
    options: Record = {
        "engine": arguments.engine,
        "sampler": arguments.sampler,
        "deadline": start + arguments.seconds - MARGIN,
        "ready": ready,
    }
    for seed, rate, scaling in product(range(40), arguments.rates, METHODS):
        jobs.put(Job(seed, rate, scaling))

    def tell(text: str) -> None:
        print(f"[{time.time() - start:5.1f} s] {text}", flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_problems(scale, folder)
        workers = [
            context.Process(target=work, args=(scale, folder, options, jobs, results))
            for _ in range(arguments.processes)
        ]
        for worker in workers:  # they import while the policy is pretrained
            worker.start()
        try:
            weights = pretrain(scale, folder, scale.pretrain_seconds, tell)
            tell(f"{weights / 1e6:.1f} M parameters on {device_name()}")
            cost = lambda_cost(scale, folder, options["engine"], options["sampler"])
            share = cost["tree_seconds"] / cost["step_seconds"]
            tell(
                f"process sets and weights: {1e3 * cost['tree_seconds']:.2f} ms of a step of "
                f"{1e3 * cost['step_seconds']:.0f} ms with {cost['tokens']:.0f} tokens: {share:.2%}"
            )
            ready.set()
            records = collect(results, len(workers), options["deadline"])
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.join()
    for rate in arguments.rates:
        print(f"\n{report(records, rate)}")
    summary = {"device": device_name(), "weights": weights, "scale": asdict(scale), "cost": cost}
    print(f"\n{json.dumps({**summary, 'engine': options['engine'], 'runs': records})}", flush=True)


def device_name() -> str:
    """What it ran on."""
    return torch.cuda.get_device_name() if CUDA else "CPU"


if __name__ == "__main__":
    main()
