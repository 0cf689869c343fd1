"""Find, build and describe a reward function; runs in the worker process."""

import difflib
import importlib
import importlib.util
import inspect
import os
import pickle
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from lgrpo_lightning.rewards.runner.messages import Description, Target

ADVICE = (
    "define it at module level of an importable file, such as my_rewards.py in the working "
    "directory, and name it 'my_rewards.<function>'"
)
_BATCH = ("prompts", "completions", "completion_ids")


class LoadError(ValueError):
    """A reward function that can't be used, and why."""


def load(target: Target) -> Callable[..., Any]:
    """Import or unpickle the function; of a class, make an instance.

    Raises:
        LoadError: saying what failed and what to do.
    """
    found = _unpickle(target.pickled) if target.path is None else find(target.path)
    if inspect.isclass(found):
        found = _instantiate(found, target.arguments)
    elif target.arguments:
        raise LoadError(
            f"arguments {sorted(target.arguments)} are for classes, and this is a "
            f"{type(found).__name__}; bind its arguments with a class or functools.partial"
        )
    if not callable(found):
        raise LoadError(f"it is a {type(found).__name__}, which can't be called")
    warm_up = getattr(found, "warm_up", None)
    if warm_up is not None:
        _run("warm_up failed", warm_up)
    return found  # type: ignore[no-any-return]


def describe(function: Callable[..., Any]) -> Description:
    """Read the function's signature and traits.

    Raises:
        LoadError: if it can't be called with keyword arguments.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError as error:
        raise LoadError(f"its signature can't be read ({error}); wrap it in a function") from None
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
    if positional:
        raise LoadError(f"its parameters {positional} are positional-only; rewards are keywords")
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return Description(
        required=tuple(p.name for p in named if p.default is p.empty and p.name not in _BATCH),
        accepts=None if takes_all else frozenset(p.name for p in named),
        per_completion=bool(getattr(function, "per_completion", False)),
        checks_references=getattr(function, "check_references", None) is not None,
    )


def find(path: str) -> Any:  # noqa: ANN401 - a path may name anything
    """The object at ``package.module.name`` or ``path/to/file.py:name``.

    Raises:
        LoadError: naming the part that can't be found, with the nearest names.
    """
    file, separator, name = path.rpartition(":")
    if separator and file.endswith(".py"):
        return _walk(_import_file(file), name.split("."), path)
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        raise LoadError(
            "it is neither a dotted path such as 'my_rewards.brevity' nor a file and a name such "
            "as 'path/to/my_rewards.py:brevity'"
        )
    module = _import(parts[0])
    if module is None:
        raise LoadError(
            f"there is no module {parts[0]!r} in {os.getcwd()} or on Python's path"
            f"{_nearest_path(parts)}"
        )
    return module if len(parts) == 1 else _walk(module, parts[1:], path)


def _walk(module: ModuleType, names: list[str], path: str) -> Any:  # noqa: ANN401
    found: Any = module
    for name in names:
        missing = object()
        step = getattr(found, name, missing)
        if step is missing and isinstance(found, ModuleType) and "__path__" in vars(found):
            step = _import(f"{found.__name__}.{name}") or missing
        if step is missing:
            owner = getattr(found, "__name__", type(found).__name__)
            raise LoadError(f"{owner!r} has no {name!r}{_nearest(name, dir(found))}")
        found = step
    return found


def _import(name: str) -> ModuleType | None:
    """The module, None if there is no such module."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        raise LoadError(_report(f"importing {name!r} failed", error)) from None
    except Exception as error:
        raise LoadError(_report(f"importing {name!r} failed", error)) from None


def _import_file(file: str) -> ModuleType:
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise LoadError(f"there is no file {path}")
    name = f"reward_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as an import would: dataclasses and pickle look it up there
    sys.path.insert(0, str(path.parent))  # so that it can import its neighbours, as a script can
    loader = spec.loader
    _run(f"importing {path} failed", lambda: loader.exec_module(module))
    return module


def _unpickle(pickled: bytes | None) -> Any:  # noqa: ANN401
    assert pickled is not None
    return _run(f"the worker can't load it; {ADVICE}", lambda: pickle.loads(pickled))


def _instantiate(cls: type, arguments: dict[str, Any]) -> Any:  # noqa: ANN401
    signature = inspect.signature(cls)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        hint = "".join(
            _nearest(name, signature.parameters)
            for name in arguments
            if name not in signature.parameters
        )
        raise LoadError(
            f"arguments {sorted(arguments)} do not fit {cls.__name__}{signature}: {error}{hint}"
        ) from None
    return _run(f"{cls.__name__} can't be built", lambda: cls(**arguments))


def _run(what: str, step: Callable[[], Any]) -> Any:  # noqa: ANN401
    """Run a step of the user's; a ValueError speaks for itself, others need their traceback."""
    try:
        return step()
    except ValueError as error:
        raise LoadError(f"{what}: {error}") from None
    except Exception as error:
        raise LoadError(_report(what, error)) from None


def _report(what: str, error: Exception) -> str:
    trace = "".join(traceback.format_exception(error)).rstrip()
    return f"{what}: {type(error).__name__}: {error}\n{trace}"


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def _nearest_path(parts: list[str]) -> str:
    if len(parts) == 1:  # "gsm8k_reward": somebody who expects the shipped ones to be known
        shipped = importlib.import_module("lgrpo_lightning.rewards").__all__
        close = difflib.get_close_matches(parts[0], shipped, n=1)
        return f"; did you mean 'lgrpo_lightning.rewards.{close[0]}'?" if close else ""
    top_level = {module.name for module in pkgutil.iter_modules()}
    return _nearest(parts[0], top_level)
