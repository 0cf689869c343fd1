"""From what a user names (a file, a folder, a set on the hub, rows in memory) to a table."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from lgrpo_lightning.data.files import SUFFIXES, Row, kind_of, read_files
from lgrpo_lightning.data.splits import SPLIT_WORDS, files_by_name, files_of_folder
from lgrpo_lightning.data.table import Table

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

Source: TypeAlias = "str | list[str] | list[Row] | Dataset | DatasetDict"


def load_table(
    source: Source, name: str | None = None, split: str | None = None, default: str | None = "train"
) -> Table:
    """Load one split of a data set.

    Args:
        source: A local file, a glob, a list of files, a local folder (written by ``save_to_disk``,
            or with data files), a name on the Hugging Face hub, or rows in memory: a list of
            dictionaries, a :class:`datasets.Dataset` or a :class:`datasets.DatasetDict`. What
            exists locally is never looked for on the hub.
        name: Configuration of a set on the hub, such as "main".
        split: Which split; None takes the only one there is, or ``default`` out of several. A set
            on the hub also takes slices such as "train[:10%]".
        default: See ``split``.

    Raises:
        ValueError: If there is nothing to be found, it cannot be read, or the split is not there.
    """
    label = describe(source)
    if isinstance(source, str) and is_hub_name(source):
        return Table(_load_hub(source, name, split, default))
    if name is not None:
        raise ValueError(f"name is {name!r}, but {label} is not on the hub; set name to null")
    splits = _local_splits(source) if _is_path(source) else _memory_splits(source)
    chosen = splits[choose_split(label, list(splits), split, default)]
    if isinstance(chosen, list) and all(isinstance(entry, Path) for entry in chosen):
        chosen = read_files(chosen)
    return Table(chosen)


def download(source: Source, name: str | None = None) -> None:
    """Fetch a set on the hub into the local cache; anything else is there already."""
    if isinstance(source, str) and is_hub_name(source):
        _request_hub(source, name)


def describe(source: Source) -> str:
    """Name a source in a message."""
    if _is_path(source):
        first, *others = [source] if isinstance(source, str) else source
        return f"{first!r}{f' and {len(others)} more' if others else ''}"
    return f"the {type(source).__name__} in memory"


def short_name(source: Source) -> str:
    """Return a short name of a source, for metrics: "gsm8k" for ``data/gsm8k/test.jsonl``.

    It is the name of the file, folder or set on the hub; for a file that is only called "train",
    "test" and the like, that of its folder; "memory" for rows in memory.
    """
    if not _is_path(source):
        return "memory"
    path = Path(source if isinstance(source, str) else source[0])
    stem = path.stem if kind_of(path) in SUFFIXES else path.name
    words = [word for word in re.split(r"[\W_\d]+", stem.lower()) if word and word != "of"]
    only_split = all(word in SPLIT_WORDS for word in words) and not stem.isdecimal()
    return path.absolute().parent.name or stem if only_split else stem


def choose_split(label: str, splits: list[str], split: str | None, default: str | None) -> str:
    """Return the split asked for, or the only one, or the default.

    Raises:
        ValueError: If it does not exist, or none is asked for and there are several.
    """
    if split is None:
        if len(splits) == 1:
            return splits[0]
        if default not in splits:
            raise ValueError(f"{label} has several splits; choose one: {', '.join(splits)}")
        return default
    if split not in splits:
        raise ValueError(f"{label} has no split {split!r}; there is: {', '.join(splits)}")
    return split


def is_hub_name(source: str) -> bool:
    """Whether a text is to be looked for on the hub: it looks so, and nothing local has the name.

    Raises:
        ValueError: If there is nothing local and it cannot be a name on the hub either.
    """
    if Path(source).expanduser().exists() or glob.has_magic(source):
        return False
    if kind_of(Path(source)) in SUFFIXES or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", source):
        raise ValueError(
            f"there is no file or folder {source!r} (looked for in {Path.cwd()}), and it is no "
            "name of a data set on the Hugging Face hub (those read 'owner/name')"
        )
    return True


def _is_path(source: Source) -> TypeGuard[str | list[str]]:
    if isinstance(source, list):
        return bool(source) and all(isinstance(entry, str) for entry in source)
    return isinstance(source, str)


def _load_hub(path: str, name: str | None, split: str | None, default: str | None) -> Dataset:
    if split is not None and re.search(r"[\[+]", split):
        return _request_hub(path, name, split)
    splits = _request_hub(path, name)
    return splits[choose_split(repr(path), list(splits), split, default)]


def _request_hub(path: str, name: str | None, split: str | None = None) -> Any:  # noqa: ANN401
    """Return a data set, or a DatasetDict of all its splits when none is asked for."""
    import datasets

    try:
        return datasets.load_dataset(path, name, split=split)
    except (OSError, ValueError) as error:
        reached = "the hub was not reached" if isinstance(error, ConnectionError) else "that failed"
        raise ValueError(
            f"{path!r} is no file or folder here (looked for in {Path.cwd()}), so it was taken as "
            f"a data set on the Hugging Face hub, and {reached}: {error}"
        ) from error


def _memory_splits(source: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever the user gave
    import datasets

    if isinstance(source, datasets.DatasetDict):
        return dict(source)
    if isinstance(source, datasets.Dataset):
        return {str(source.split or "train"): source}
    if isinstance(source, list):
        return {"train": source}
    raise ValueError(
        f"a {type(source).__name__} is no source of prompts; give a path, a name on the hub, a "
        "datasets.Dataset, or a list of dictionaries"
    )


def _local_splits(source: str | list[str]) -> Mapping[str, Any]:
    """Return the splits of what is on the disk: data sets, or lists of files still to be read."""
    if isinstance(source, list):
        return files_by_name(source)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return files_by_name([source])
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        import datasets

        return _memory_splits(datasets.load_from_disk(str(folder)))
    return files_of_folder(folder)
