"""Rows of sampled completions: from a training step's output, for files and for tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lgrpo_callbacks.tables import shorten

# Written when training_step returns them; a module without groups has no group to return.
OPTIONAL_KEYS = ("group", "lengths", "truncated", "reward_breakdown")
TABLE_COLUMNS = ("step", "group", "reward", "advantage", "length", "prompt", "completion")
_NAMES = {
    "prompts": "prompt",
    "completions": "completion",
    "rewards": "reward",
    "advantages": "advantage",
    "group": "group",
    "lengths": "length",
    "truncated": "truncated",
}

Row = dict[str, Any]


def completion_rows(outputs: Mapping[str, Any], rank: int) -> list[Row]:
    """Return one row of plain values per completion, without the optimizer step.

    Args:
        outputs: ``prompts``, ``completions`` (M texts), ``rewards``, ``advantages`` [M] and, where
            given, ``group``, ``lengths``, ``truncated`` [M] and ``reward_breakdown`` {name: [M]}.
        rank: the process that sampled them.

    Raises:
        ValueError: naming a key that does not hold one value per completion.
    """
    size = len(outputs["completions"])
    columns = {
        name: _plain_column(key, outputs[key], size)
        for key, name in _NAMES.items()
        if key in outputs
    }
    per_function = {
        name: _plain_column(f"reward_breakdown[{name!r}]", values, size)
        for name, values in outputs.get("reward_breakdown", {}).items()
    }
    rows: list[Row] = []
    for index in range(size):
        row: Row = {"rank": rank, **{name: values[index] for name, values in columns.items()}}
        if "reward_breakdown" in outputs:
            row["reward_breakdown"] = {name: item[index] for name, item in per_function.items()}
        rows.append(row)
    return rows


def table_cells(rows: Sequence[Row], width: int | None = None) -> list[list[str]]:
    """Return the cells of :data:`TABLE_COLUMNS`; texts on one line of ``width`` if it is given."""
    return [[_cell(row.get(column), width) for column in TABLE_COLUMNS] for row in rows]


def _cell(value: object, width: int | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value) if width is None else shorten(str(value), width)


def _plain_column(key: str, values: Tensor | Sequence[Any], size: int) -> list[Any]:
    plain = values.tolist() if isinstance(values, Tensor) else list(values)
    if len(plain) != size:
        raise ValueError(
            f"CompletionLogger: {key} of training_step's output must have one value for each of "
            f"the {size} completions, got {len(plain)}"
        )
    return plain
