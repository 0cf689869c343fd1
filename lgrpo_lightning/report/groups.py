"""Completions of one prompt, as the page shows them."""

import json
from collections.abc import Iterable
from typing import Literal, TypedDict

Source = Literal["training", "validation", "test"]


class Completion(TypedDict):
    """One text; ``count`` completions of the group were equal to it. None: not recorded."""

    text: str
    count: int
    reward: float | None
    advantage: float | None
    length: int | None
    truncated: bool | None
    breakdown: dict[str, float | None]


class Group(TypedDict):
    """All completions of a prompt at a step (optimizer steps done); ``index`` is the prompt's."""

    source: Source
    step: int
    index: int
    prompt: str
    completions: list[Completion]


def merge_equal(completions: Iterable[Completion]) -> list[Completion]:
    """Return each different completion once, and how many there are of it."""
    merged: dict[str, Completion] = {}
    for completion in completions:
        key = json.dumps(completion, sort_keys=True)
        if key in merged:
            merged[key]["count"] += 1
        else:
            merged[key] = completion
    return list(merged.values())
