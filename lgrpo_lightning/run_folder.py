"""Where a run writes: a folder of its own, so that no run touches another's files.

<root>/<name>/<date>_<time>[-<command>]/   config.yaml, logs, checkpoints/, evaluations/ …
"""

from datetime import datetime
from pathlib import Path


def new_run_folder(root: Path, name: str, command: str, now: datetime) -> Path:
    """Create the folder of a new run; a number is added where one of the same second exists.

    Args:
        root: of all runs.
        name: of the experiment.
        command: ``fit``, ``validate`` …; all but ``fit`` become part of the folder's name.
        now: when the run starts.
    """
    stem = f"{now:%Y-%m-%d_%H-%M-%S}" + ("" if command == "fit" else f"-{command}")
    number = 1
    while True:
        folder = root / name / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def last_checkpoint(root: Path, name: str) -> Path:
    """The checkpoint to go on from: ``last.ckpt`` of the newest run of that name that has one.

    Raises:
        ValueError: if there is none.
    """
    found = sorted(
        (root / name).glob("*/checkpoints/last*.ckpt"), key=lambda path: path.stat().st_mtime
    )
    if not found:
        raise ValueError(
            f"--ckpt_path last: no run in {root / name} has a checkpoints/last.ckpt; give the path "
            "of a checkpoint, or the --name the run was started with"
        )
    return found[-1]
