"""Run folders as the callbacks and loggers write them, of any size and with any text."""

import csv
import json
import math
import random
import statistics
from collections.abc import Sequence
from pathlib import Path

# Text that ends the data's element, begins others, runs as a script, and does not fit into UTF-8.
HOSTILE = (
    "</script><script>window.injected = 1</script><!-- <script> \"'`${} &lt;b&gt; "
    "<img src=x onerror='window.injected = 1'> ]]> \u2028\u2029 \ud800 \u202e \x00 {{script}}"
)

SETTINGS = """\
trainer:
  max_steps: {steps}
model:
  policy:
    path: assets/tiny-addition
  group_size: {group_size}
  loss:
    process_set_scaling: {scaling}
    kl_coef: 0.04
data:
  path: assets/addition/train.jsonl
"""


def write_lines(path: Path, records: Sequence[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def tree_record(
    completions: Sequence[Sequence[str]],
    rewards: Sequence[float],
    step: int = 1,
    prompt: str = "a prompt",
    group: int = 0,
) -> dict:
    """A group's process tree as ProcessTreeMonitor writes it, built from its definition."""
    mean = statistics.fmean(rewards)
    std = statistics.stdev(rewards)
    advantages = [(reward - mean) / (std + 1e-4) for reward in rewards]
    nodes: list[dict] = []
    ends: dict[int, int | None] = dict.fromkeys(range(len(completions)))

    def grow(members: list[int], start: int, parent: int | None, depth: int) -> None:
        # Members that end here stay at the parent; the others go on by their next token.
        for first in dict.fromkeys(
            completions[member][start] for member in members if len(completions[member]) > start
        ):
            share = [
                member
                for member in members
                if len(completions[member]) > start and completions[member][start] == first
            ]
            end = start
            while all(len(completions[member]) > end for member in share) and (
                len({completions[member][end] for member in share}) == 1
            ):
                end += 1
            node = {
                "id": len(nodes),
                "parent": parent,
                "depth": depth,
                "tokens": list(completions[share[0]][start:end]),
                "set_size": len(share),
                "members": share,
                "mean_reward": statistics.fmean(rewards[member] for member in share),
                "advantage": statistics.fmean(advantages[member] for member in share),
            }
            nodes.append(node)
            for member in share:
                if len(completions[member]) == end:
                    ends[member] = node["id"]
            grow(share, end, node["id"], depth + 1)

    grow(list(range(len(completions))), 0, None, 1)
    leaves = [
        {
            "completion": member,
            "node": ends[member],
            "reward": rewards[member],
            "advantage": advantages[member],
            "length": len(completions[member]),
            "truncated": completions[member][-1:] != ["■"],
        }
        for member in range(len(completions))
    ]
    return {
        "step": step,
        "epoch": 0,
        "prompt": prompt,
        "group": group,
        "group_size": len(completions),
        "mean_reward": mean,
        "std_reward": std,
        "nodes": nodes,
        "leaves": leaves,
    }


def make_run(
    folder: Path,
    steps: int = 30,
    trees: int = 6,
    group_size: int = 8,
    tokens: int = 24,
    groups_per_step: int = 2,
    seed: int = 0,
    scaling: bool = True,
    text: str = "",
) -> Path:
    """A complete run whose rewards rise; ``text`` is part of every prompt, completion and token."""
    dice = random.Random(seed)
    folder.mkdir(parents=True)
    settings = SETTINGS.format(steps=steps, group_size=group_size, scaling=str(scaling).lower())
    (folder / "config.yaml").write_text(settings, encoding="utf-8")
    skill = [1 / (1 + math.exp(4 - 8 * step / steps)) for step in range(steps + 1)]
    _write_metrics(folder / "metrics.csv", skill, dice)
    for step in range(0, steps + 1, max(1, steps // 5)):
        problems = [_problem(place, skill[step], dice, text) for place in range(10)]
        write_lines(folder / "evaluations" / f"validation-step-{step:08d}.jsonl", problems)
    groups = [
        _group(step, group, skill[step], group_size, tokens, dice, text)
        for step in range(1, steps + 1)
        for group in range(groups_per_step)
    ]
    rows = [row for _, rows in groups for row in rows]
    write_lines(folder / "completions" / "rank-0.jsonl", rows)
    with_tree = [
        groups[round(place * (len(groups) - 1) / max(1, trees - 1))] for place in range(trees)
    ]
    records = [
        tree_record(
            completions,
            [row["reward"] for row in rows],
            rows[0]["step"],
            rows[0]["prompt"],
            rows[0]["group"],
        )
        for completions, rows in with_tree
    ]
    write_lines(folder / "trees" / "rank-0.jsonl", records)
    return folder


def _write_metrics(path: Path, skill: Sequence[float], dice: random.Random) -> None:
    """As CSVLogger does: training from step 0 on, evaluations at the step that is being done."""
    steps = len(skill) - 1
    rows: list[dict] = []
    for step in range(steps + 1):
        if step % max(1, steps // 5) == 0:
            value = min(1.0, max(0.0, skill[step] + dice.gauss(0, 0.02)))
            row = {"step": max(0, step - 1), "eval/reward": value, "eval/length": 30 - 5 * value}
            for k in (1, 4):
                share = 1 - (1 - value) ** k
                row |= {f"eval/pass@{k}": share}
                row |= {f"eval/pass@{k}_low": share - 0.05, f"eval/pass@{k}_high": share + 0.05}
            rows.append(row | ({"epoch": 0} if step else {}))
        if step == steps:
            break
        rows.append(
            {
                "epoch": 0,
                "step": step,
                "train/reward": skill[step] + dice.gauss(0, 0.08),
                "train/loss": dice.gauss(0, 0.05),
                "train/length": 30 - 5 * skill[step] + dice.gauss(0, 1),
                "train/entropy": 1.2 - skill[step] + dice.gauss(0, 0.03),
                "train/path_depth": 3 - skill[step] + dice.gauss(0, 0.2),
                "train/intermediate_proportion": 0.3 + 0.5 * skill[step],
                "train/zero_variance_groups": abs(dice.gauss(0.2, 0.1)),
                "kl/ref": 0.06 * skill[step] * (1 + dice.gauss(0, 0.1)),
            }
        )
    names = sorted({name for row in rows for name in row})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _problem(place: int, skill: float, dice: random.Random, text: str) -> dict:
    rewards = [float(dice.random() < skill) for _ in range(2)]
    return {
        "prompt": f"problem {place} {text}",
        "source": "heldout",
        "completions": [f"answer {dice.randrange(100)} {text}" for _ in rewards],
        "rewards": rewards,
        "reward_breakdown": {"match": rewards, "form": [1.0, None]},
        "lengths": [4, 5],
        "truncated": [False, True],
    }


def _group(
    step: int, group: int, skill: float, size: int, tokens: int, dice: random.Random, text: str
) -> tuple[list[list[str]], list[dict]]:
    """Completions that begin alike: each leaves one before it at some token, or equals it."""
    words = [f"word{number} " for number in range(40)] + ["\n", text or "and "]
    completions = [[dice.choice(words) for _ in range(tokens - 1)] + ["■"]]
    while len(completions) < size:
        model = dice.choice(completions)
        fork = dice.randrange(len(model))
        rest = [dice.choice(words) for _ in range(dice.randrange(1, tokens))]
        completions.append(model if dice.random() < 0.2 else [*model[:fork], *rest, "■"])
    prompt = f"What is {step} + {group}? {text}"
    rewards = [float(dice.random() < skill) for _ in completions]
    rewards[:2] = [0.0, 1.0]
    return completions, [
        {
            "step": step,
            "rank": 0,
            "prompt": prompt,
            "completion": "".join(completion),
            "reward": reward,
            "advantage": reward - skill,
            "group": group,
            "length": len(completion),
            "truncated": False,
            "reward_breakdown": {"match": reward},
        }
        for completion, reward in zip(completions, rewards, strict=True)
    ]
