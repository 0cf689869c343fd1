"""Runs the command line in this process, on a policy and data that take a second."""

import contextlib
import functools
import io
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from lgrpo_lightning.cli import main
from lgrpo_lightning.cli.command import LambdaCLI

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """What a run left in the terminal."""

    code: int | str | None
    out: str
    err: str


@contextlib.contextmanager
def lightning_messages(stream):
    """Lightning's own handler writes to the stderr of when it was imported."""
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("lightning.pytorch")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def lgrpo(*arguments: object) -> Outcome:
    """``lgrpo …``; the exit code is 0 where it ends by itself."""
    out, err = io.StringIO(), io.StringIO()
    code: int | str | None = 0
    try:
        with (
            mock.patch.object(sys, "argv", ["lgrpo"]),  # LightningCLI warns of pytest's own
            mock.patch.object(sys, "path", [*sys.path]),
            mock.patch.dict(os.environ),  # where Lightning keeps the seed
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            lightning_messages(err),
        ):
            main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    return Outcome(code, out.getvalue(), err.getvalue())


class ParserReadyError(Exception):
    """What follows the making of the parser is not wanted."""


class ParserOnly(LambdaCLI):
    """The command line, up to its parser."""

    def parse_arguments(self, parser, args):
        raise ParserReadyError


@functools.cache
def command_parser():
    """The parser of ``lgrpo``; making it takes longer than using it."""
    cli = ParserOnly.__new__(ParserOnly)
    with contextlib.suppress(ParserReadyError):
        cli.__init__([])
    return cli.parser


def config(folder: Path, name: str = "tiny") -> Path:
    """A config of the size of a test: 2 optimizer steps, evaluated before and after."""
    path = folder / f"{name}.yaml"
    path.write_text(TINY.format(root=ROOT))
    return path


TINY = """
trainer:
  accelerator: cpu
  devices: 1
  max_steps: 2
  val_check_interval: 2
  check_val_every_n_epoch: null
  num_sanity_val_steps: -1
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lgrpo_callbacks.RewardEvaluator
    - class_path: lgrpo_callbacks.CompletionLogger
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{every_n_train_steps: 1, save_last: true}}
model:
  policy: {{path: {root}/assets/tiny-addition}}
  rewards: [lgrpo_lightning.rewards.boxed_match_reward]
  group_size: 2
  sampling: {{max_new_tokens: 8}}
  evaluation: {{max_new_tokens: 64, temperature: 0.0}}
  loss: {{kl_coef: 0.04}}
  optimizer:
    class_path: torch.optim.AdamW
    init_args: {{lr: 1.0e-3, weight_decay: 0.0}}
data:
  path: {root}/assets/addition/train.jsonl
  eval_path: {root}/assets/addition/heldout.jsonl
  prompts_per_rollout: 2
  limit: 40
  eval_limit: 8
"""
