"""Looking into a checkpoint before a run starts from it."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

# What a Lightning checkpoint of a module with hyperparameters holds.
_KEYS = {"pytorch-lightning_version", "global_step", "hyper_parameters"}


class BrokenCheckpointError(ValueError):
    """A file that is no whole checkpoint."""


def read_checkpoint(path: Path, weights_only: bool) -> dict[str, Any]:
    """The content of a checkpoint, tensors left on the disk until they are used.

    Args:
        path: a file, or the folder of a sharded checkpoint, of which all but weights is read.
        weights_only: refuse everything but plain data.

    Raises:
        BrokenCheckpointError: if it is not whole.
        ValueError: if there is none, it is none of Lightning's, or could run code.
    """
    file = path / "meta.pt" if path.is_dir() else path
    if not path.exists():
        raise ValueError(
            f"--ckpt_path {path}: there is no such checkpoint; give the path of one, or last for "
            "the newest of the runs of this name"
        )
    broken = f"--ckpt_path {path}: this is no checkpoint, or a broken one"
    if not file.is_file() or not zipfile.is_zipfile(file):  # as torch.save writes since 1.6
        raise BrokenCheckpointError(broken)
    try:
        content = torch.load(file, map_location="cpu", weights_only=weights_only, mmap=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|operand|instruction) \S+", str(error))
        raise ValueError(
            f"--ckpt_path {path}: refused, and nothing of it was run: it holds more than plain "
            f"data ({found[0] if found else 'of an unknown kind'}), which could run code. "
            "Only if you trust whoever made it: --weights_only false"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise BrokenCheckpointError(f"{broken}: {error}") from error
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        raise ValueError(f"--ckpt_path {path}: this is no checkpoint of a run")
    if path.is_dir() and weights_only:
        raise ValueError(
            f"--ckpt_path {path}: refused, and nothing of it was run: torch keeps the index of a "
            "checkpoint in parts in a form that could run code. Only if you trust whoever made it: "
            "--weights_only false; save_distributed_checkpoint: false writes files of plain data"
        )
    return content
