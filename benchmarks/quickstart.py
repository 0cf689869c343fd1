"""The quickstart over several seeds: accuracy before and after, seconds, and the learning curve.

    python benchmarks/quickstart.py --seeds 0 1 2 3 4 --picture docs/quickstart.png

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
        (int(row["step"]), float(row["eval/pass@1"])) for row in rows if row.get("eval/pass@1")
    ]
    rewards = [
        (int(row["step"]), float(row["train/reward"])) for row in rows if row.get("train/reward")
    ]
    return {"seed": seed, "seconds": seconds, "evaluations": evaluations, "rewards": rewards}


def draw(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """The training reward of every run over optimizer steps, and held-out accuracy as dots."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    colours = {"λ-GRPO": "#0f6e84", "GRPO": "#c4622d"}
    for method, runs in results.items():
        for result in runs:
            steps, rewards = zip(*result["rewards"], strict=True)
            axes.plot(steps, rewards, color=colours[method], alpha=0.18, linewidth=1)
        points = [dict(result["evaluations"]) for result in runs]
        evaluated = sorted(points[0])
        means = [statistics.fmean(point[step] for point in points) for step in evaluated]
        axes.plot(evaluated, means, "o-", color=colours[method], label=f"{method}, held-out accuracy")
    axes.set(xlabel="optimizer steps", ylabel="share of right answers", ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, title="thin lines: training reward of each seed")
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
