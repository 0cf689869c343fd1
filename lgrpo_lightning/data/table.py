"""One way to read columns and rows, whether they lie in memory or in Arrow files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from datasets import Dataset

    from lgrpo_lightning.data.files import Row


class Table:
    """Rows with named columns.

    Args:
        rows: A list of dictionaries, or a :class:`datasets.Dataset`, whose rows stay where they are
            until they are asked for. A key that a dictionary lacks reads as None.

    Raises:
        ValueError: If a row of a list is no dictionary with text keys.
    """

    def __init__(self, rows: Sequence[Row] | Dataset) -> None:
        self._rows = cast("Any", rows)
        if isinstance(rows, list):
            names: dict[str, None] = {}
            for index, row in enumerate(rows):
                if not isinstance(row, Mapping) or not all(isinstance(key, str) for key in row):
                    raise ValueError(f"row {index} is no dictionary with text keys: {row!r:.80}")
                names.update(dict.fromkeys(row))
            self.names = tuple(names)
        else:
            self._rows = self._rows.with_format(None)  # plain Python values, not tensors
            self.names = tuple(self._rows.column_names)

    def __len__(self) -> int:
        return len(self._rows)

    def head(self, num_rows: int) -> Table:
        """Return the first rows, or all if there are fewer."""
        if isinstance(self._rows, list):
            return Table(self._rows[:num_rows])
        return Table(self._rows.select(range(min(num_rows, len(self)))))

    def column(self, name: str) -> list[Any]:
        """Return one column."""
        if isinstance(self._rows, list):
            return [row.get(name) for row in self._rows]
        return list(self._rows[name][:])

    def take(self, indices: list[int], names: Sequence[str]) -> dict[str, list[Any]]:
        """Return the named columns of some rows, in the order of ``indices``."""
        if isinstance(self._rows, list):
            rows = [self._rows[index] for index in indices]
            return {name: [row.get(name) for row in rows] for name in names}
        if not names:
            return {}
        taken: dict[str, list[Any]] = self._rows.select_columns(list(dict.fromkeys(names)))[indices]
        return taken
