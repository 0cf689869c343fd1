"""What a run shows in the terminal besides its progress and results."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import transformers

_WARNINGS = (
    # The frozen reference is meant to be in eval mode.
    r"Found \d+ module\(s\) in eval mode",
    # The run's folder is new; only the loggers of this run write into it.
    "Experiment logs directory",
    # Every run has a folder of its own, also the one that resumes another.
    "The dirpath has changed from",
    # An evaluation of prompts is not a matter of loading data.
    r".*does not have many workers",
    # Lightning's own use of torch, and peft's of transformers.
    r".*isinstance\(treespec, LeafSpec\)",
    "`is_gradient_checkpointing` is deprecated",
    # The estimate of the summary counts 4 bytes a weight, as a policy in float32 has.
    r"Precision .* is not supported by the model summary",
    # Micro-batches of a rollout are counted in completions, not in prompts.
    "Trying to infer the `batch_size`",
)
_MESSAGES = re.compile(
    r"💡 Tip:|TPU available: False"
    r"|`Trainer.fit` stopped: "  # the summary says it
    r"|An \w+ was raised with message"  # so do the error itself and what follows it
)


@contextmanager
def console(own_messages: bool) -> Iterator[None]:
    """Show what this package tells; leave out advertisements and what is meant to be so.

    Args:
        own_messages: show them all, or only warnings, in processes that would say the same again.
    """
    own = logging.getLogger("lgrpo_lightning")
    level, handler = own.level, logging.StreamHandler()
    own.setLevel(logging.INFO if own_messages else logging.WARNING)
    own.addHandler(handler)
    try:
        with _without_noise():
            yield
    finally:
        own.removeHandler(handler)
        own.setLevel(level)


@contextmanager
def _without_noise() -> Iterator[None]:
    info = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    bars = transformers.utils.logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        for message in _WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        info.addFilter(_is_news)
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            info.removeFilter(_is_news)
            if bars:
                transformers.utils.logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _is_news(record: logging.LogRecord) -> bool:
    return _MESSAGES.match(record.getMessage()) is None
