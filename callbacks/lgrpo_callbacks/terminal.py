"""Tables for a person at a terminal: by rich where it is installed, else plain text."""

import io
import shutil
import sys
from collections.abc import Sequence

from lgrpo_callbacks.completion_rows import TABLE_COLUMNS, Row, table_cells
from lgrpo_callbacks.tables import format_table

_PLAIN_WIDTH = 60  # characters of a prompt or completion, on one line
_RICH_WIDTH = 320  # characters of one, on several lines
_TEXTS = ("prompt", "completion")


def completion_table(rows: Sequence[Row]) -> str:
    """Return completions as a table that is as wide as the terminal.

    With rich, texts are wrapped, special characters escaped, and completions that are better or
    worse than their group stand out.
    """
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return format_table(TABLE_COLUMNS, table_cells(rows, _PLAIN_WIDTH))
    table = Table(show_lines=True)
    for column in TABLE_COLUMNS:
        is_text = column in _TEXTS
        table.add_column(
            column,
            justify="left" if is_text else "right",
            ratio=1 if is_text else None,
            overflow="fold",
        )
    for row, cells in zip(rows, table_cells(rows, _RICH_WIDTH), strict=True):
        advantage = row["advantage"]
        style = "green" if advantage > 0 else "red" if advantage < 0 else ""
        # Text takes square brackets of a completion as they are, not as rich's markup.
        table.add_row(*(Text(cell) for cell in cells), style=style)
    page = io.StringIO()
    width = shutil.get_terminal_size().columns
    Console(file=page, width=width, force_terminal=sys.stdout.isatty()).print(table)
    return page.getvalue().rstrip("\n")
