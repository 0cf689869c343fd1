"""Settings of a run, from its config.yaml."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import yaml


class Settings(TypedDict):
    """The file's text, and each setting by its dotted name."""

    text: str
    values: dict[str, str]


def read_settings(path: Path, notes: list[str]) -> Settings:
    """Read a config.yaml of LightningCLI.

    Args:
        path: the file.
        notes: gets a sentence if it is missing or no YAML.
    """
    if not path.is_file():
        notes.append("config.yaml is missing: no settings. LightningCLI writes it.")
        return Settings(text="", values={})
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        place = f"{error.problem_mark}".strip() if isinstance(error, yaml.MarkedYAMLError) else ""
        notes.append(f"config.yaml is not valid YAML{f' ({place})' if place else ''}.")
        content = None
    return Settings(text=text, values=dict(_flatten(content)))


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any YAML
    """Yield (dotted name, value); items of a list are numbered from 0."""
    if isinstance(value, dict) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value:
        items = [(str(place), item) for place, item in enumerate(value)]
    else:
        if name:
            yield name, _scalar(value)
        return
    for key, item in items:
        yield from _flatten(item, f"{name}.{key}" if name else key)


def _scalar(value: Any) -> str:  # noqa: ANN401
    """A value as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
