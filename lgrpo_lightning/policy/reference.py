"""The reference policy of the KL term: a frozen copy, or the policy with its adapter off."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class Reference(nn.Module):
    """What the policy was before training, to be run under ``with reference.model(policy)``.

    A policy with a LoRA adapter holds its reference already: itself with the adapter switched off.
    Any other needs a frozen copy.

    Args:
        frozen: the copy; None where the adapter is switched off instead.
    """

    def __init__(self, frozen: nn.Module | None) -> None:
        super().__init__()
        self.frozen = frozen

    @contextmanager
    def model(self, policy: nn.Module) -> Iterator[nn.Module]:
        """The module that computes the reference's log-probs while the context is open."""
        if self.frozen is not None:
            yield self.frozen
            return
        with policy.disable_adapter():  # type: ignore[operator]
            yield policy


def make_reference(policy: nn.Module, has_adapter: bool) -> Reference:
    """The reference of a freshly loaded policy."""
    if has_adapter:
        return Reference(None)
    frozen = copy.deepcopy(policy).eval().requires_grad_(False)
    return Reference(frozen)
