"""JSON that can stand inside an HTML page."""

import json
from typing import Any

# What ends a script element, begins a comment in it, or ends a line in old JavaScript.
_ESCAPED = "<>&\u2028\u2029"
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in _ESCAPED}


def to_json(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    r"""Return strict JSON, as UTF-8, without a character that HTML could take for markup.

    Args:
        value: to encode.

    Raises:
        ValueError: if a number is not finite.

    Example::

        >>> to_json(["</script>"])
        b'["\\u003c/script\\u003e"]'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Half characters that a tokenizer produced have no UTF-8 form, but they have a JSON escape.
    return text.translate(_ESCAPES).encode("utf-8", errors="backslashreplace")


def json_size(line: bytes) -> int:
    """Return how many bytes a line of JSON may take once it is escaped."""
    longer = sum(line.count(character) for character in (b"<", b">", b"&"))
    return len(line) + 5 * longer
