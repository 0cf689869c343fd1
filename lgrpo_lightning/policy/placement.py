"""Where a policy's weights lie, for what has been recorded with their addresses."""

from collections.abc import Hashable

import torch
from torch import nn

from lgrpo_lightning.policy.support import unwrapped


def placement(policy: nn.Module) -> Hashable:
    """Everything that a captured step depends on: where weights lie, adapters, autocast."""
    weights = [*policy.parameters(), *policy.buffers()]
    adapters: list[Hashable] = []
    if unwrapped(policy) is not None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        adapters = [
            (layer.disable_adapters, tuple(layer.active_adapters), tuple(layer.merged_adapters))
            for layer in policy.modules()
            if isinstance(layer, BaseTunerLayer)
        ]
    kind = weights[0].device.type
    return (
        tuple((weight.data_ptr(), weight.dtype, weight.shape) for weight in weights),
        tuple(adapters),
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind),
    )
