"""Where a run writes: a folder of its own, so that no run touches another's files.

<root>/<name>/<date>_<time>[-<command>][-job-<id>]/   config.yaml, logs, checkpoints/, …
"""

import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

# What launchers say about a process: its rank among all, on its node, and its node's.
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
CHECKPOINTS = "checkpoints"


def run_folder(root: Path, name: str, command: str) -> Path:
    """The folder of the run that begins now; the first process creates it.

    The others are started by themselves or by the first (torchrun, SLURM, Lightning's launcher)
    and cannot know its choice yet. They get the folder above it and write nothing before the
    trainer tells them.
    """
    if not is_first_process(os.environ):
        return (root / name).absolute()
    job = os.environ.get("SLURM_JOB_ID")
    return new_run_folder(root, name, command, datetime.now(), job).absolute()


def new_run_folder(
    root: Path, name: str, command: str, now: datetime, job: str | None = None
) -> Path:
    """Create the folder of a new run; a number is added where one of the same second exists.

    Args:
        root: of all runs.
        name: of the experiment.
        command: ``fit``, ``validate`` …; all but ``fit`` become part of the folder's name.
        now: when the run starts.
        job: SLURM's number of the job, by which a requeued job finds its checkpoint.

    Raises:
        ValueError: if the folder cannot be created.
    """
    stem = f"{now:%Y-%m-%d_%H-%M-%S}" + ("" if command == "fit" else f"-{command}")
    number = 1
    while True:
        last = stem if number == 1 else f"{stem}-{number}"
        folder = root / name / (last if job is None else f"{last}-job-{job}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not folder.is_dir():
                raise ValueError(f"--runs {root}: {folder} is in the way of a folder") from None
            number += 1
        except OSError as error:
            raise ValueError(
                f"--runs {root}: the run's folder cannot be created: {error}"
            ) from error
        else:
            return folder


def is_first_process(environment: Mapping[str, str]) -> bool:
    """Whether this process is the first of its run, by what its launcher says."""
    return all(environment.get(name, "0") == "0" for name in _RANKS)


def checkpoint_folders(root: Path, name: str) -> list[Path]:
    """Where the runs of that name keep their checkpoints."""
    return list((root / name).glob(f"*/{CHECKPOINTS}"))


def last_checkpoints(root: Path, name: str) -> list[Path]:
    """The checkpoints of all runs of that name, the newest first.

    Raises:
        ValueError: if there is none.
    """
    paths = [path for folder in checkpoint_folders(root, name) for path in folder.glob("*.ckpt")]
    if not paths:
        raise ValueError(
            f"--ckpt_path last: no run in {root / name} has a checkpoint; give the path of one, "
            "or the --runs and --name the run was started with"
        )
    return sorted(paths, key=_age, reverse=True)


def requeued_checkpoint(root: Path, name: str, environment: Mapping[str, str]) -> Path | None:
    """What a SLURM job saved before it was requeued; None if this is no requeued job."""
    job = environment.get("SLURM_JOB_ID")
    if job is None or environment.get("SLURM_RESTART_COUNT", "0") == "0":
        return None
    return newest_checkpoint((root / name).glob(f"*-job-{job}/hpc_ckpt_*.ckpt"))


def newest_checkpoint(paths: Iterable[Path]) -> Path | None:
    """The one written last; of one moment's, that called "last"."""
    return max(paths, key=_age, default=None)


def _age(path: Path) -> tuple[int, bool]:
    return path.stat().st_mtime_ns, path.name.startswith("last")


def shown_path(path: Path) -> Path:
    """The path as a person would type it: relative to the working directory if it is in it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
