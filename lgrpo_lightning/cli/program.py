"""The program ``lgrpo``: runs the command line and turns failures into exit codes.

A mistake of the user's is reported in one line, without a traceback, and exits with 1 (2 where the
command line or a config file cannot be parsed). Ctrl-C exits with 130, SIGTERM with 143.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import lgrpo_callbacks
from lgrpo_lightning.checkpoint_io import CheckpointWriteError
from lgrpo_lightning.cli.command import ConfigError, LambdaCLI
from lgrpo_lightning.cli.console import console
from lgrpo_lightning.cli.interruption import is_full_disk
from lgrpo_lightning.cli.memory import main as tell_memory
from lgrpo_lightning.cli.run_folder import is_first_process
from lgrpo_lightning.rewards.runner import RewardError
from lgrpo_lightning.study.command import main as run_study

_HOMES = [Path(__file__).parents[1], Path(lgrpo_callbacks.__file__).parent]
_OUT_OF_MEMORY = (
    "lgrpo: out of memory. Lower model.micro_batch_size (training) or model.sampler_batch_size "
    "(sampling), or set model.policy.gradient_checkpointing to true"
)


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: what follows ``lgrpo``; None for that of this process.
    """
    # A console script does not find modules in the working directory, where users keep theirs.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    arguments = sys.argv[1:] if args is None else args
    try:
        if arguments[:1] == ["study"]:
            run_study(arguments[1:], main)
            return
        if arguments[:1] == ["memory"]:
            tell_memory(arguments[1:])
            return
        with console(own_messages=is_first_process(os.environ)):
            LambdaCLI(args=args)
    except (ConfigError, MisconfigurationException, RewardError, CheckpointWriteError) as error:
        _fail(str(error))
    except ValueError as error:
        if not _is_ours(error):
            raise
        _fail(str(error))
    except OSError as error:
        if not is_full_disk(error):
            raise
        _fail(f"a log or history cannot be written: {error.strerror}. Make room, then go on")
    except KeyboardInterrupt:  # before training; later it is Lightning that ends the run
        sys.exit(130)
    except torch.OutOfMemoryError as error:
        error.add_note(_OUT_OF_MEMORY)
        raise


def _is_ours(error: ValueError) -> bool:
    """Whether this project raised the error, so that its message says what to do."""
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return any(raised_in.is_relative_to(home) for home in _HOMES)


def _fail(message: str) -> NoReturn:
    """End the process with a message."""
    rank = rank_zero_only.rank  # type: ignore[attr-defined]  # Lightning sets it
    print(f"lgrpo{f', process {rank}' if rank else ''}: {message}", file=sys.stderr)
    sys.exit(1)
