r"""The answer a completion puts into ``\boxed{…}``."""

import re
from typing import NamedTuple

# Everything the scan has to look at: a box, the braceless `\boxed 5` of older MATH solutions,
# an escaped character (`\{` is no brace), a brace.
_TOKEN = re.compile(
    r"(?P<box>\\(?:boxed|fbox|framebox)\s*\{)|\\boxed\s+(?P<bare>-?\d[\d.,]*)|\\.|(?P<brace>[{}])",
    re.DOTALL,
)


class Boxed(NamedTuple):
    """A box's content and where it starts in the text (characters)."""

    content: str
    start: int


def find_last_boxed(text: str) -> Boxed | None:
    r"""The last ``\boxed{…}`` (``\fbox``, ``\framebox``) whose braces are balanced.

    One pass over the text, so thousands of unclosed boxes cost no more than their length.

    Args:
        text: what to search.

    Returns:
        Its content, unstripped, and position; None if there is none. Of nested boxes, the inner.
    """
    open_braces: list[int | None] = []  # where the content of a box starts; None for other braces
    last: Boxed | None = None
    for token in _TOKEN.finditer(text):
        if token["box"]:
            open_braces.append(token.end())
        elif token["bare"]:
            last = Boxed(token["bare"], token.start("bare"))
        elif token["brace"] == "{":
            open_braces.append(None)
        elif token["brace"] == "}" and open_braces:
            start = open_braces.pop()
            if start is not None and (last is None or start > last.start):
                last = Boxed(text[start : token.start()], start)
    return last


def last_boxed(text: str) -> str | None:
    r"""Content of the last ``\boxed{…}`` with balanced braces, None if there is none.

    Example::

        >>> last_boxed(r"first \boxed{1}, then \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
    """
    boxed = find_last_boxed(text)
    return None if boxed is None else boxed.content
