"""Completions that a run trained on, from the history of CompletionLogger."""

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
    groups = list(_find_groups(paths, notes).items())
    groups.sort(key=lambda item: item[0][0])  # stable: groups of a step stay in the file's order
    chosen = choose_within(
        [sum(line.page_size for line in lines) for _, lines in groups], max_bytes
    )
    if len(chosen) < len(groups):
        notes.append(
            f"Training completions: {len(chosen):,} of {len(groups):,} groups, evenly over the "
            "run, to keep the page small."
        )
    places: dict[int, int] = {}  # step → groups of it so far
    numbers = []
    for (step, _, _), _ in groups:
        numbers.append(places.get(step, 0))
        places[step] = numbers[-1] + 1
    return [
        _group(groups[place][0][0], numbers[place], [line.read() for line in groups[place][1]])
        for place in chosen
    ]


def _find_groups(paths: list[Path], notes: list[str]) -> dict[tuple[int, str, str], list[Line]]:
    """Find the lines of each group by (step, file, group)."""
    groups: dict[tuple[int, str, str], list[Line]] = {}
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
            groups.setdefault(key, []).append(line)
        if incomplete:
            notes.append(f"{name}: {incomplete} line(s) without step or completion left out.")
    return groups


def _group(step: int, index: int, records: list[dict[str, Any]]) -> Group:
    return Group(
        source="training",
        step=step,
        index=index,
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
