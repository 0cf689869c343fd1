"""A set of prompts with the columns their rewards need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from zlib import crc32

from lightning.pytorch.utilities import rank_zero_warn

from lgrpo_lightning.data.batch import Prompt, PromptBatch
from lgrpo_lightning.data.prompt_format import PromptFormat
from lgrpo_lightning.data.sources import Source, describe, load_table, short_name
from lgrpo_lightning.data.table import Table

# What other data sets call their prompt.
LIKELY_PROMPTS = ("question", "problem", "query", "input", "instruction")
# Arguments of reward functions, which columns are passed beside.
RESERVED = ("prompts", "completions", "completion_ids")


@dataclass(frozen=True)
class _Part:
    """One data set within a prompt set: its rows and what its columns are called here."""

    table: Table
    columns: dict[str, str]  # our name → the table's


class PromptSet:
    """Prompts and their other columns, from one data set or several.

    The prompts are in memory; other columns stay where they are until they are dealt.

    Attributes:
        prompts: All prompts: texts, or lists of role messages.
        columns: Names of the other columns, those that reward functions are given.
        sources: For each prompt the name of its data set.
        indices: For each prompt the number of its row in that data set, counted from 0.
    """

    def __init__(self, prompts: list[Prompt], name: str, part: _Part) -> None:
        self.prompts = prompts
        self.columns = tuple(column for column in part.columns if column != "prompt")
        self.sources = [name] * len(prompts)
        self.indices = list(range(len(prompts)))
        self._parts = [part]
        self._part_of = [0] * len(prompts)

    @cached_property
    def fingerprint(self) -> int:
        """A number by which other prompts, or another order of them, are noticed."""
        return crc32("\0".join(map(prompt_key, self.prompts)).encode(errors="surrogatepass"))

    @classmethod
    def load(
        cls,
        source: Source,
        *,
        config: str | None = None,
        split: str | None = None,
        default_split: str | None = "train",
        columns: Mapping[str, str] | None = None,
        prompt_format: PromptFormat | None = None,
        limit: int | None = None,
        name: str | None = None,
    ) -> PromptSet:
        """Load, check and format the prompts of one data set.

        Args:
            source: Files, a folder, a name on the hub or rows in memory; see ``load_table``.
            config: Configuration of a set on the hub.
            split: Which split; None takes the only one there is, or ``default_split``.
            default_split: See ``split``; None makes the choice among several an error.
            columns: Our name for columns of the data set, for example ``{"prompt": "question"}``.
                A column that is named here is known by the new name only.
            prompt_format: What is put around the prompts.
            limit: Take the first rows only.
            name: What ``sources`` says; by default a short form of ``source``.

        Raises:
            ValueError: If the data cannot be read, a column is missing, there are no rows, or some
                cannot be prompts.
        """
        prompt_format = prompt_format or PromptFormat()
        label = describe(source)
        table = load_table(source, config, split, default_split)
        if limit is not None:
            if limit < 1:
                raise ValueError(f"limit is {limit}; it must be 1 or more")
            table = table.head(limit)
        if not len(table):
            raise ValueError(f"{label} has no rows")
        names = _rename(label, table.names, columns or {}, prompt_format.fields)
        prompts = _render(label, table, names, prompt_format)
        return cls(prompts, name or short_name(source), _Part(table, names))

    @classmethod
    def concatenate(cls, sets: Sequence[PromptSet]) -> PromptSet:
        """Join sets into one; a column that one of them lacks reads as None there."""
        joined = cls.__new__(cls)
        joined.prompts = [prompt for part in sets for prompt in part.prompts]
        joined.columns = tuple(dict.fromkeys(name for part in sets for name in part.columns))
        joined.sources = [source for part in sets for source in part.sources]
        joined.indices = [index for part in sets for index in part.indices]
        joined._parts, joined._part_of = [], []
        for part in sets:
            joined._part_of += [len(joined._parts) + number for number in part._part_of]
            joined._parts += part._parts
        return joined

    def __len__(self) -> int:
        return len(self.prompts)

    def batch(self, rows: Sequence[int]) -> PromptBatch:
        """Return some of the prompts, by their numbers in this set, with all that belongs to them.

        Args:
            rows: B numbers between 0 and ``len(self) - 1``.
        """
        columns: dict[str, list[Any]] = {name: [None] * len(rows) for name in self.columns}
        for number in {self._part_of[row] for row in rows}:
            part = self._parts[number]
            places = [place for place, row in enumerate(rows) if self._part_of[row] == number]
            wanted = [self.indices[rows[place]] for place in places]
            names = [name for name in part.columns if name != "prompt"]
            taken = part.table.take(wanted, [part.columns[name] for name in names])
            for name in names:
                for place, value in zip(places, taken[part.columns[name]], strict=True):
                    columns[name][place] = value
        return PromptBatch(
            prompts=[self.prompts[row] for row in rows],
            columns=columns,
            sources=[self.sources[row] for row in rows],
            indices=[self.indices[row] for row in rows],
        )


def prompt_key(prompt: Prompt) -> str:
    """Return what makes two prompts the same: their text, without system messages."""
    if isinstance(prompt, str):
        return prompt.strip()
    return "\n".join(m["content"].strip() for m in prompt if m["role"] != "system")


def _rename(
    label: str, names: Sequence[str], columns: Mapping[str, str], needed: frozenset[str]
) -> dict[str, str]:
    """Return each column's name in the table by its name here."""
    listed = ", ".join(names)
    for ours, theirs in columns.items():
        if theirs not in names:
            raise ValueError(
                f"columns maps {ours!r} to {theirs!r}, but {label} has the columns {listed}"
            )
    taken = set(columns.values())
    renamed = dict(columns) | {n: n for n in names if n not in taken and n not in columns}
    for column in sorted(needed - renamed.keys()):
        hint = f"the template of its prompts needs one; it has: {listed}"
        if column == "prompt":
            likely = next((name for name in LIKELY_PROMPTS if name in names), "…")
            hint = f"it has: {listed}. Name the prompt's column with columns: {{prompt: {likely}}}"
        raise ValueError(f"{label} has no column {column!r}; {hint}")
    for column in RESERVED:
        if column in renamed:
            raise ValueError(
                f"{label} has a column {column!r}, which is an argument of reward functions; "
                f"rename it, for example with columns: {{data_{column}: {renamed[column]}}}"
            )
    return renamed


def _render(
    label: str, table: Table, names: Mapping[str, str], prompt_format: PromptFormat
) -> list[Prompt]:
    """Make all prompts, or say which rows cannot be one."""
    fields = sorted(prompt_format.fields)
    values = [table.column(names[field]) for field in fields]
    prompts: list[Prompt] = []
    faults = []
    for index, row in enumerate(zip(*values, strict=True)):
        try:
            prompts.append(prompt_format.render(dict(zip(fields, row, strict=True))))
        except ValueError as fault:
            faults.append(f"row {index}: {fault}")
    if faults:
        more = "" if len(faults) <= 5 else "; …"
        raise ValueError(
            f"{len(faults)} of {len(table)} rows of {label} are no prompts (rows count from 0): "
            f"{'; '.join(faults[:5])}{more}"
        )
    distinct = len({prompt_key(prompt) for prompt in prompts})
    if distinct < len(prompts):
        rank_zero_warn(
            f"{len(prompts) - distinct} of {len(prompts)} prompts of {label} repeat others, so "
            "these count more often"
        )
    return prompts
