"""What a run left, in a form that can be compared with what another one left."""

import json
from pathlib import Path

import torch

from lgrpo_callbacks import read_jsonl
from lgrpo_lightning.cli.metrics_csv import read_rows


def final_state(run: Path) -> dict:
    """Weights, optimizer and schedule of the last checkpoint."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return {
        key: checkpoint[key]
        for key in ("global_step", "state_dict", "optimizer_states", "lr_schedulers")
    }


def logs(*runs: Path) -> dict[str, list]:
    """The last run's histories; the evaluations of all, which each run writes to files anew."""
    last = runs[-1]
    return {
        "metrics": [_without_time(row) for row in read_rows(last / "metrics.csv")],
        "completions": read_jsonl(last / "completions" / "rank-0.jsonl"),
        "trees": read_jsonl(last / "trees" / "rank-0.jsonl"),
        "evaluations": [
            (path.name, read_jsonl(path))
            for path in sorted(
                {p.name: p for r in runs for p in r.glob("evaluations/*.jsonl")}.values(),
                key=lambda path: path.name,
            )
        ],
    }


def _without_time(row: dict) -> dict:
    return {name: value for name, value in row.items() if name != "train/tokens_per_second"}


def equal(left: object, right: object) -> bool:
    """Whether two nested states are equal, tensors to the bit."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return left == right


def difference(left: list, right: list) -> str:
    """The first place where two lists differ; empty where they are equal."""
    for number, (one, other) in enumerate(zip(left, right, strict=False)):
        if json.dumps(one) != json.dumps(other):
            names = one.keys() | other.keys() if isinstance(one, dict) else ()
            names = [name for name in names if one.get(name) != other.get(name)]
            return f"entry {number} differs in {names}: {one} and {other}"[:2000]
    return "" if len(left) == len(right) else f"{len(left)} and {len(right)} entries"
