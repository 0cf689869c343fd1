"""The reference policy of the KL term: a frozen copy, or the policy with its adapter off."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lgrpo_lightning.policy.blocks import blocks_of


class Reference(nn.Module):
    """What the policy was before training, to be run under ``with reference.model(policy)``.

    A policy with a LoRA adapter holds its reference already: itself with the adapter switched off.
    Any other needs a frozen copy.

    Args:
        frozen: the copy; None where the adapter is switched off instead.
        on_cpu: keep the copy in the CPU's memory. While the context is open, what lies outside of
            the model's blocks is on the policy's device, and each block only while it runs.
    """

    def __init__(self, frozen: nn.Module | None, on_cpu: bool = False) -> None:
        super().__init__()
        self.frozen = frozen
        self.on_cpu = on_cpu

    @contextmanager
    def model(self, policy: nn.Module) -> Iterator[nn.Module]:
        """The module that computes the reference's log-probs while the context is open."""
        if self.frozen is None:
            with policy.disable_adapter():  # type: ignore[operator]
                yield policy
        elif self.on_cpu:
            with _visiting(self.frozen, next(policy.parameters()).device):
                yield self.frozen
        else:
            yield self.frozen

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Reference":
        """Stay on the CPU when the module around moves; follow it in type."""
        if not self.on_cpu:
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]
        return super()._apply(lambda tensor: fn(tensor).cpu(), recurse)  # type: ignore[no-untyped-call, no-any-return]


def make_reference(policy: nn.Module, has_adapter: bool, on_cpu: bool = False) -> Reference:
    """The reference of a freshly loaded policy.

    Raises:
        ValueError: if it is to be held on the CPU and the model does not tell its blocks.
    """
    if has_adapter:
        return Reference(None)
    frozen = copy.deepcopy(policy).eval().requires_grad_(False)
    if on_cpu:
        frozen = frozen.cpu()
        blocks_of(frozen)
    return Reference(frozen, on_cpu)


@contextmanager
def _visiting(model: nn.Module, device: torch.device) -> Iterator[None]:
    """While open, a model on the CPU runs on a device, with one of its blocks there at a time."""
    blocks = blocks_of(model)
    inside = {id(tensor) for block in blocks for tensor in _tensors(block)}
    outside = [tensor for tensor in _tensors(model) if id(tensor) not in inside]
    homes: dict[int, Tensor] = {}

    def fetch(tensors: list[Tensor]) -> None:
        for tensor in tensors:
            homes[id(tensor)] = tensor.data
            tensor.data = tensor.data.to(device)

    def release(tensors: list[Tensor]) -> None:
        for tensor in tensors:
            tensor.data = homes.pop(id(tensor), tensor.data)

    handles = []
    for block in blocks:
        own = _tensors(block)
        handles.append(block.register_forward_pre_hook(lambda *_, own=own: fetch(own)))
        handles.append(
            block.register_forward_hook(lambda *_, own=own: release(own), always_call=True)
        )
    fetch(outside)
    try:
        yield
    finally:
        release(outside)
        for handle in handles:
            handle.remove()


def _tensors(model: nn.Module) -> list[Tensor]:
    """Weights and buffers, tied ones once."""
    return [*model.parameters(), *model.buffers()]
