"""Reference answers as data sets hold them: strings, integers, floats or nothing."""

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from numbers import Integral, Real


def reference_text(value: object) -> str | None:
    """The reference answer as text, the way a person would write it.

    Numbers lose what only their storage added: 27.0 becomes ``27``, 1e-05 becomes ``0.00001``.

    Args:
        value: a string, an integer, a finite float, or None.

    Returns:
        The text, stripped; None for None, which says that the row has no reference.

    Raises:
        ValueError: for an empty string, NaN, infinity, a bool or any other type.
    """
    if value is None:
        return None
    if isinstance(value, str):
        if value.strip():
            return value.strip()
    elif isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value))
    elif isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
        number = float(value)
        return str(int(number)) if number.is_integer() else format(Decimal(repr(number)), "f")
    raise ValueError(
        f"the reference answer {value!r:.200} can't be used: it must be a non-empty string, an "
        "integer or a finite number"
    )


def check_rows(column: str, values: Sequence[object], read: Callable[[object], object]) -> None:
    """Read every reference of a data set once, so that a bad one is found before training.

    Args:
        column: name of the column, for the message.
        values: its values, one for each row.
        read: raises ValueError for a reference that can't be used.

    Raises:
        ValueError: naming the column, the row and the value; also if every value is None.
    """
    for row, value in enumerate(values):
        try:
            read(value)
        except ValueError as error:
            raise ValueError(f"column {column!r}, row {row}: {error}") from None
    if values and all(value is None for value in values):
        raise ValueError(f"column {column!r} holds no reference: all {len(values)} rows are None")
