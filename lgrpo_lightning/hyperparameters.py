"""Hyperparameters in a checkpoint: plain values, so that it loads with ``weights_only=True``."""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")

_PLAIN = (str, int, float, bool, type(None))


def coerced(settings: type[T], value: T | Mapping[str, Any]) -> T:
    """``value``, or the settings made from it where it is a mapping, as a checkpoint holds them.

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(value, settings):
        return value
    if isinstance(value, Mapping):
        return settings(**value)
    raise ValueError(f"expected {settings.__name__} or a mapping of its fields, got {value!r}")


def coerced_or_none(settings: type[T], value: T | Mapping[str, Any] | None) -> T | None:
    """As :func:`coerced`; None stays None."""
    return None if value is None else coerced(settings, value)


def keep_plain(values: MutableMapping[str, Any]) -> None:
    """Keep what can be stored as plain data; settings as mappings of their fields.

    What is left out (functions, optimizers) has to be passed again to ``load_from_checkpoint``. The
    command line's hyperparameters are plain already.
    """
    if "_instantiator" in values:
        return
    for name, value in list(values.items()):
        plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        if _is_plain(plain):
            values[name] = plain
        else:
            del values[name]


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(_is_plain(item) for item in value)
    return isinstance(value, _PLAIN)
