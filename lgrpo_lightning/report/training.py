"""Completions that a run trained on, from the history of CompletionLogger."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lgrpo_lightning.report.budget import choose_within
from lgrpo_lightning.report.fields import as_bool, as_dict, as_int, as_number, as_text
from lgrpo_lightning.report.groups import Completion, Group, merge_equal
from lgrpo_lightning.report.lines import Line, newest_folder, scan


def read_training(run: Path, max_bytes: int, notes: list[str]) -> list[Group]:
    """Read the groups of a run, or so many of them, evenly over the run, as the page can hold.

    Args:
        run: the run's folder.
        max_bytes: that the groups may take.
        notes: gets a sentence about what is missing or left out.
    """
    folder = newest_folder(run, "completions", notes)
    paths = sorted(folder.glob("rank-*.jsonl")) if folder else []
    if not paths:
        notes.append(
            "completions/ is missing: no training completions. The callback CompletionLogger "
            "writes them."
        )
        return []
    groups = _find_groups(paths, notes)
    groups.sort(key=lambda group: group.step)  # stable: groups of a step stay in the file's order
    chosen = choose_within([sum(group.sizes.values()) for group in groups], max_bytes)
    if len(chosen) < len(groups):
        notes.append(
            f"Training completions: {len(chosen):,} of {len(groups):,} groups, evenly over the "
            "run, to keep the page small."
        )
    seen: Counter[int] = Counter()  # groups of a step so far
    for group in groups:
        group.index = seen[group.step]
        seen[group.step] += 1
    return [_read_group(groups[place]) for place in chosen]


@dataclass
class _Found:
    """Where the completions of a group are.

    Args:
        step: optimizer steps done.
        index: place among the groups of the step.
        lines: of the completions.
        sizes: bytes in the page of each different completion.
    """

    step: int
    index: int = 0
    lines: list[Line] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)

    def add(self, line: Line, record: dict[str, Any]) -> None:
        """Add a completion; equal ones, and the prompt, are in the page only once."""
        repeated = len(as_text(record.get("prompt"))) if self.lines else 0
        self.sizes.setdefault(hash(str(record["completion"])), line.page_size - repeated)
        self.lines.append(line)


def _find_groups(paths: list[Path], notes: list[str]) -> list[_Found]:
    groups: dict[tuple[int, str, str], _Found] = {}
    for path in paths:
        name = f"{path.parent.name}/{path.name}"
        incomplete = 0
        for line, record in scan(path, name, notes):
            step = as_int(record.get("step"))
            if step is None or "completion" not in record:
                incomplete += 1
                continue
            # Without a number of the group, completions of one prompt are one.
            key = (step, path.name, str(record.get("group", record.get("prompt"))))
            groups.setdefault(key, _Found(step)).add(line, record)
        if incomplete:
            notes.append(f"{name}: {incomplete} line(s) without step or completion left out.")
    return list(groups.values())


def _read_group(found: _Found) -> Group:
    records = [line.read() for line in found.lines]
    return Group(
        source="training",
        step=found.step,
        index=found.index,
        prompt=as_text(records[0].get("prompt")),
        completions=merge_equal(
            Completion(
                text=as_text(record["completion"]),
                count=1,
                reward=as_number(record.get("reward")),
                advantage=as_number(record.get("advantage")),
                length=as_int(record.get("length")),
                truncated=as_bool(record.get("truncated")),
                breakdown={
                    name: as_number(value)
                    for name, value in as_dict(record.get("reward_breakdown")).items()
                },
            )
            for record in records
        ),
    )
