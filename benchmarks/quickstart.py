"""The quickstart over several seeds: accuracy before and after, seconds, and the learning curve.

    python benchmarks/quickstart.py --picture docs/quickstart.png -- --trainer.val_check_interval 5

Every seed is one run of ``lgrpo fit -c configs/quickstart.yaml``, GRPO the same with λ off. Prints
a table and a last line of JSON.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

METHODS = {"λ-GRPO": "true", "GRPO": "false"}


def run(seed: int, scaling: str, runs: Path, extra: list[str]) -> dict[str, Any]:
    """Train once and read what the run wrote."""
    name = f"seed-{seed}-{scaling}"
    command = [sys.executable, "-m", "lgrpo_lightning", "fit", "-c", "configs/quickstart.yaml"]
    command += ["--runs", str(runs), "--name", name, "--seed_everything", str(seed)]
    command += [f"--model.loss.process_set_scaling={scaling}", *extra]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    with next((runs / name).glob("*/metrics.csv")).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    evaluations = [
        # Lightning logs an evaluation under the step before it; the one before training has step 0.
        (int(row["step"]) + (index > 0), float(row["eval/pass@1"]))
        for index, row in enumerate(row for row in rows if row.get("eval/pass@1"))
    ]
    return {"seed": seed, "seconds": seconds, "evaluations": evaluations}


def draw(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Held-out accuracy over optimizer steps: each seed thin, the mean thick."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    colours = {"λ-GRPO": "#0f6e84", "GRPO": "#c4622d"}
    for method, runs in results.items():
        curves = [dict(result["evaluations"]) for result in runs]
        steps = sorted(curves[0])
        for curve in curves:
            values = [curve[step] for step in steps]
            axes.plot(steps, values, color=colours[method], alpha=0.3, linewidth=1)
        means = [statistics.fmean(curve[step] for curve in curves) for step in steps]
        axes.plot(steps, means, color=colours[method], linewidth=2.5, label=method)
    axes.set(xlabel="optimizer steps", ylabel="held-out accuracy, greedy", ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, title="thin: seeds, thick: their mean")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run all seeds of both methods, alternating, and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--picture", type=Path, help="where to save the curves as PNG")
    parser.add_argument("options", nargs="*", help="further options of lgrpo fit, after --")
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {method: [] for method in arguments.methods}
    print(f"{'method':<8} {'seed':>4} {'before':>7} {'after':>7} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            for method in arguments.methods:
                result = run(seed, METHODS[method], Path(folder), arguments.options)
                results[method].append(result)
                before, after = result["evaluations"][0][1], result["evaluations"][-1][1]
                print(
                    f"{method:<8} {seed:>4} {before:>7.3f} {after:>7.3f} {result['seconds']:>8.1f}"
                )
    if arguments.picture:
        draw(results, arguments.picture)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
