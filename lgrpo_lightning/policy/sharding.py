"""Sharding a model over processes by PyTorch's FSDP2: each holds a part of every weight.

A transformer block is gathered for its forward and its backward pass and let go afterwards; what
lies outside of the blocks (embeddings, last norm, head) is gathered by the model as a whole.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lgrpo_lightning.policy.blocks import blocks_of
from lgrpo_lightning.policy.support import causal_lm


def shard(model: nn.Module, mesh: DeviceMesh, compute_dtype: torch.dtype | None = None) -> None:
    """Shard a model in place over the processes of a mesh; a second call does nothing.

    The model of transformers itself becomes the outermost sharded module, also inside of a peft
    model, since ``generate`` calls it without the wrapper around it.

    Args:
        model: a causal language model of transformers, or a peft model around one, with the same
            weights on every process.
        mesh: the processes, one-dimensional.
        compute_dtype: type that weights are gathered and computed in, while gradients are averaged
            and weights are held in float32; None for the type they are held in.

    Raises:
        ValueError: if the model does not tell its blocks.
    """
    base = causal_lm(model)
    if isinstance(base, FSDPModule):
        return
    blocks = blocks_of(base)
    reduce_dtype = None if compute_dtype is None else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=reduce_dtype)
    for module in (*blocks, base):
        fully_shard(module, mesh=mesh, mp_policy=policy)


def data_mesh(mesh: DeviceMesh) -> DeviceMesh:
    """The dimension of Lightning's mesh over which data are dealt and weights sharded.

    Raises:
        ValueError: if processes are to share layers, too.
    """
    if mesh["tensor_parallel"].size() > 1:
        raise ValueError(
            f"the strategy has {mesh['tensor_parallel'].size()} processes share every layer "
            "(tensor_parallel_size), which LambdaGRPO does not do; use strategy: fsdp2, or set "
            "tensor_parallel_size to 1 and data_parallel_size to the number of processes"
        )
    return mesh["data_parallel"]


def is_sharded(model: nn.Module) -> bool:
    """Whether the processes hold parts of the model, so that they have to run it in step."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def gathered(value: Any) -> Any:  # noqa: ANN401 - as an optimizer's state holds it
    """A sharded tensor as a whole one, any tensor on the CPU; others as they are. A collective."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu() if isinstance(value, Tensor) else value


def placed_like(own: Tensor, value: Any) -> Any:  # noqa: ANN401
    """A whole tensor split and placed like one of ours of its shape; anything else as it is.

    A collective, with the first process's values.
    """
    if not isinstance(own, DTensor) or not isinstance(value, Tensor) or isinstance(value, DTensor):
        return value
    if value.shape != own.shape:
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
