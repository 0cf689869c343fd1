"""Time of one update by the tree engine, against padding and against TRL.

An update is the log-probs of one group, the loss and the backward pass, on a random Llama of 6
layers and width 256. The contenders take turns, so that what else the machine does hits all of
them; the medians are compared. On a CPU, one thread is used and its CPU time is counted; on CUDA,
wall time of everything.

    tree     this package's default: every shared token once, chunked head
    padded   this package's other engine: padded rows, chunked head
    plain    padded rows, all logits of the completions at once
    trl      GRPOTrainer.compute_loss with TRL's defaults

    python -m benchmarks.update --repeats 5
    python -m benchmarks.update --vocabulary 151936 --repeats 5 --json update.json
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from benchmarks.update_cases import contender, llama
from benchmarks.update_groups import Group, Update

SHAPES = ((256, 64, 8), (512, 128, 16), (256, 256, 8), (16, 64, 8))
KINDS = ((0.0, False), (0.2, False), (0.2, True))
CONTENDERS = ("tree", "padded", "plain", "trl")


def seconds(update: Update, device: torch.device) -> float:
    """How long one update takes."""
    if device.type == "cpu":
        start = time.process_time()
        update()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    update()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def medians(updates: dict[str, Update], repeats: int, device: torch.device) -> dict[str, float]:
    """The median time of each contender; they take turns, and one turn is not counted."""
    times: dict[str, list[float]] = {name: [] for name in updates}
    for turn in range(repeats + 1):
        for name, update in updates.items():
            taken = seconds(update, device)
            if turn:
                times[name].append(taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    """Time every case and print one row of ratios for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="counted turns (default: 5)")
    parser.add_argument("--vocabulary", type=int, default=4096, help="tokens (default: 4096)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--shapes", type=int, nargs="*", help="which shapes, 0 to 3 (default: all)")
    parser.add_argument("--contenders", nargs="*", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    heads = ("P, C, G", "shared", "lengths", "limit", "padded ÷ tree", "of limit")
    print(f"| {' | '.join((*heads, 'plain ÷ tree', 'TRL ÷ tree'))} |")
    print("|---|---|---|---|---|---|---|---|")
    figures = []
    for shape in (SHAPES[i] for i in arguments.shapes or range(len(SHAPES))):
        for shared, varied in KINDS:
            group = Group(*shape, shared, varied)
            updates = {
                name: contender(name, llama(arguments.vocabulary).to(arguments.device), group)
                for name in arguments.contenders
            }
            times = medians(updates, arguments.repeats, arguments.device)
            ratios = {name: taken / times["tree"] for name, taken in times.items()}
            limit = group.limit()
            figures.append({"case": vars(group), "limit": limit, "seconds": times})
            cells = [
                f"{ratios[name]:.2f}" if name in ratios else ""
                for name in ("padded", "plain", "trl")
            ]
            share = f"{ratios['padded'] / limit:.0%}" if "padded" in ratios else ""
            print(
                f"| {', '.join(map(str, shape))} | {shared:.0%} | "
                f"{'varied' if varied else 'equal'} | {limit:.2f} | {cells[0]} | {share} | "
                f"{cells[1]} | {cells[2]} |",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
