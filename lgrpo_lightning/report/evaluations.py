"""Problems of a run's evaluations, from the files of RewardEvaluator."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lgrpo_lightning.report.budget import choose_within, spread
from lgrpo_lightning.report.fields import as_bool, as_dict, as_int, as_list, as_number, as_text
from lgrpo_lightning.report.groups import Completion, Group, Source, merge_equal
from lgrpo_lightning.report.lines import newest_folder, scan

_MAX_EVALUATIONS = 30
_FILE = re.compile(r"(validation|test)-step-(\d+)(?:-(\d+))?")

Files = Mapping[tuple[Source, int], Path]


def evaluation_files(run: Path, notes: list[str]) -> dict[tuple[Source, int], Path]:
    """Return the evaluations' files by stage and optimizer step; of several, the last one.

    Args:
        run: the run's folder.
        notes: gets a sentence if there is none.
    """
    found: dict[tuple[Source, int], tuple[int, Path]] = {}
    folder = newest_folder(run, "evaluations", notes)
    for path in sorted(folder.glob("*.jsonl")) if folder else []:
        match = _FILE.fullmatch(path.stem)
        if match is None:
            continue
        stage: Source = "test" if match[1] == "test" else "validation"
        key = (stage, int(match[2]))
        found[key] = max(found.get(key, (0, path)), (int(match[3] or 1), path))
    if not found:
        notes.append(
            "evaluations/ is missing: no evaluated problems. The callback RewardEvaluator writes "
            "them."
        )
    return {key: path for key, (_, path) in sorted(found.items())}


def read_evaluations(files: Files, max_bytes: int, notes: list[str]) -> list[Group]:
    """Read evaluated problems, the same ones of each evaluation so that they can be compared.

    Args:
        files: from :func:`evaluation_files`.
        max_bytes: that the problems may take.
        notes: gets a sentence about what is left out.
    """
    keys = list(files)
    shown = [keys[place] for place in spread(len(keys), _MAX_EVALUATIONS)]
    if len(shown) < len(keys):
        notes.append(f"Evaluated problems are those of {len(shown)} of {len(keys)} evaluations.")
    problems = {
        key: [line for line, _ in scan(files[key], f"evaluations/{files[key].name}", notes)]
        for key in shown
    }
    most = max((len(lines) for lines in problems.values()), default=0)
    sizes = [
        sum(lines[place].page_size for lines in problems.values() if place < len(lines))
        for place in range(most)
    ]
    chosen = choose_within(sizes, max_bytes)
    if len(chosen) < most:
        notes.append(
            f"Evaluated problems: {len(chosen):,} of {most:,}, the same at every step, to keep the "
            "page small."
        )
    return [
        _group(key, place, lines[place].read())
        for key, lines in problems.items()
        for place in chosen
        if place < len(lines)
    ]


def _group(key: tuple[Source, int], index: int, record: dict[str, Any]) -> Group:
    breakdown = as_dict(record.get("reward_breakdown"))
    return Group(
        source=key[0],
        step=key[1],
        index=index,
        prompt=as_text(record.get("prompt")),
        completions=merge_equal(
            Completion(
                text=as_text(text),
                count=1,
                reward=as_number(_at(record.get("rewards"), place)),
                advantage=None,
                length=as_int(_at(record.get("lengths"), place)),
                truncated=as_bool(_at(record.get("truncated"), place)),
                breakdown={
                    name: as_number(_at(values, place)) for name, values in breakdown.items()
                },
            )
            for place, text in enumerate(as_list(record.get("completions")))
        ),
    )


def _at(values: object, place: int) -> object:
    known = as_list(values)
    return known[place] if place < len(known) else None
