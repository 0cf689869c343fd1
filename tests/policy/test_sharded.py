"""Both engines in two processes, with replicated (DDP) and sharded (FSDP2) parameters."""

import socket

import pytest
import torch
from torch import nn
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from lgrpo_lightning.policy import completion_logprobs
from tests.policy.tiny_models import tiny_model, tree_batch


class Scorer(nn.Module):
    """Log-probs as a forward pass, which is what DDP wraps."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch, engine):
        return completion_logprobs(self.model, *batch, engine=engine)


def expected_gradients(tied):
    model = tiny_model("llama", tie_word_embeddings=tied)
    logprobs = [completion_logprobs(model, *tree_batch(seed), engine="padded") for seed in (0, 1)]
    (sum(part.sum() for part in logprobs) / 2).backward()
    return [parameter.grad for parameter in model.parameters()]


def sharded(model, head_alone):
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    if head_alone:
        fully_shard(model.lm_head, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def compare(rank, port, kind, tied, checkpointing):
    torch.set_num_threads(1)
    init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    expected = expected_gradients(tied)
    for engine in ("tree", "padded"):
        model = tiny_model("llama", tie_word_embeddings=tied)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if kind == "ddp":
            scorer = DistributedDataParallel(Scorer(model))
        else:
            scorer = Scorer(sharded(model, head_alone=kind == "fsdp, head alone"))
        for _ in range(2):
            model.zero_grad()
            scorer(tree_batch(rank), engine).sum().backward()
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            found = parameter.grad if kind == "ddp" else parameter.grad.full_tensor()
            torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-10)
    destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "tied", "checkpointing"),
    [
        ("ddp", False, True),
        ("ddp", True, False),
        ("fsdp", False, False),
        ("fsdp", True, True),
        ("fsdp, head alone", False, True),
    ],
)
def test_gradients_are_those_of_one_process(kind, tied, checkpointing):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(compare, args=(port, kind, tied, checkpointing), nprocs=2)
