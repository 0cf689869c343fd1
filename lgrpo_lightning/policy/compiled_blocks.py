"""Compiling the blocks of a model by torch.compile, for everything but sampling."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lgrpo_lightning.policy.blocks import blocks_of

log = logging.getLogger(__name__)


def compile_blocks(model: nn.Module, backend: str = "inductor") -> None:
    """Compile each block in place, for any number of rows and tokens; a second call does nothing.

    Block by block, since they are equal and compiled once for all, and since hooks on the model
    and its head stay what they are. The weights keep their names.

    Args:
        model: a causal language model of transformers, or a peft model around one.
        backend: of ``torch.compile``.

    Raises:
        ValueError: if the model does not tell its blocks.
    """
    blocks = blocks_of(model)
    if is_compiled(model):
        return
    for block in blocks:
        block.compile(dynamic=True, backend=backend)
    log.info("%d blocks are compiled when they are first run, which takes a while", len(blocks))


def is_compiled(model: nn.Module) -> bool:
    """Whether a model's blocks are compiled."""
    return any(module._compiled_call_impl is not None for module in model.modules())


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """While open, compiled blocks run as they were written.

    Sampling runs them with a cache that grows by a token at a time, each in a shape of its own.
    """
    if not is_compiled(model):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
