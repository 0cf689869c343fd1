"""The options of a run as a whole, beside those of trainer, model and data."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lgrpo_lightning.checkpoint_io import remove_unfinished
from lgrpo_lightning.cli.checkpoints import BrokenCheckpointError, read_checkpoint
from lgrpo_lightning.cli.run_folder import (
    checkpoint_folders,
    is_first_process,
    last_checkpoints,
    requeued_checkpoint,
    shown_path,
)
from lgrpo_lightning.preflight import refused_strategy


def add_options(parser: LightningArgumentParser) -> None:
    """Add them to the parser of a command."""
    parser.add_argument(
        "--runs", type=str, default="runs", help="Folder that holds the folders of all runs."
    )
    parser.add_argument(
        "--name",
        type=str | None,
        default=None,
        help="Name of the experiment; by default that of the config file, or of all joined: "
        "'gsm8k-lora'.",
    )
    parser.add_argument(
        "--threads",
        type=int | None,
        default=None,
        help="CPU threads of torch per process; by default torch's own choice.",
    )
    parser.add_argument(
        "--ckpt_path",
        type=str | None,
        default=None,
        help="Checkpoint to start from: a path, or 'last' for the newest of the runs of this name. "
        "Where its options differ from those given, the given ones hold. By default the policy as "
        "model.policy.path has it.",
    )
    parser.add_argument(
        "--weights_only",
        type=bool,
        default=True,
        help="Load plain data only. With false, loading a checkpoint can run any code that it "
        "holds: only for files you trust.",
    )


def check_options(options: Any) -> None:  # noqa: ANN401 - jsonargparse's Namespace
    """Refuse values with which no run can begin.

    Raises:
        ValueError: naming the option.
    """
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"--threads must be at least 1, got {options.threads}")
    if options.trainer.default_root_dir is not None:
        raise ValueError(
            f"trainer.default_root_dir is {options.trainer.default_root_dir!r}, but every run gets "
            "a folder of its own; say with --runs where these are to lie"
        )
    strategy = options.trainer.strategy
    # By its name already, since Lightning would first ask for DeepSpeed to be installed.
    refused = isinstance(strategy, str) and strategy.startswith(("deepspeed", "fsdp"))
    if refused and strategy != "fsdp2":
        raise ValueError(refused_strategy(strategy))


def experiment(options: Any) -> str:  # noqa: ANN401 - jsonargparse's Namespace
    """The experiment's name: as given, or made of those of the config files."""
    if options.name:
        return str(options.name)
    return "-".join(Path(str(config)).stem for config in options.config or []) or "run"


def checkpoint_to_load(options: Any, command: str) -> str | None:  # noqa: ANN401
    """The checkpoint to start from: as given, "last" found, or that of a requeued SLURM job.

    Raises:
        ValueError: if there is no last one, or none that is whole.
    """
    root, name = Path(options.runs), experiment(options)
    if options.ckpt_path == "last":
        found = _last_checkpoint(root, name, options.weights_only)
    elif options.ckpt_path is None and command == "fit":
        requeued = requeued_checkpoint(root, name, os.environ)
        if requeued is None:
            return None
        found = requeued
    else:
        return None if options.ckpt_path is None else str(options.ckpt_path)
    rank_zero_info(f"starting from {shown_path(found.absolute())}")
    return str(found)


def _last_checkpoint(root: Path, name: str, weights_only: bool) -> Path:
    """The newest checkpoint of the runs of that name; broken ones are passed over, aloud."""
    if is_first_process(os.environ):
        remove_unfinished(checkpoint_folders(root, name))
    for path in last_checkpoints(root, name):
        try:
            read_checkpoint(path, weights_only)
        except BrokenCheckpointError as error:
            rank_zero_warn(f"{error}; going on from the one before", category=UserWarning)
        else:
            return path
    raise ValueError(f"--ckpt_path last: no checkpoint of the runs in {root / name} is whole")
