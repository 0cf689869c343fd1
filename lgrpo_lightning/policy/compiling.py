"""Compiling small functions once for all shapes they will see."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

# Kernels of one function: by types, heads, gradients and the like. Torch's own limit of 8 is meant
# for functions that are compiled anew for every shape.
KERNELS = 64


@lru_cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function, compiled for dynamic shapes and without breaking its graph."""
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, KERNELS)
    return torch.compile(function, dynamic=True, fullgraph=True)
