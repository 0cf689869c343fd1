"""The policy's weights as a checkpoint without an adapter holds them."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lgrpo_lightning.policy.support import causal_lm


def merged_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and weights, a LoRA adapter added to what it adapts; tied ones by each of their names.

    The policy's own weights are not touched: to add the adapter and take it away again, as peft's
    ``merge_adapter`` does, would leave the rounding of both in them, every time. Weights that are
    sharded over processes are gathered one by one: all processes have to go through them at once.

    Args:
        policy: a causal language model of transformers, or a peft model around one.
    """
    model = causal_lm(policy)
    changes = _adapter_changes(model) if model is not policy else {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if "lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        weight = parameter.detach()
        if plain in changes:
            weight = weight + changes[plain].to(weight.dtype)
        yield plain, weight.full_tensor() if isinstance(weight, DTensor) else weight


def _adapter_changes(model: nn.Module) -> dict[str, Tensor]:
    """By the name of the weight, what the active LoRA adapters add to it."""
    from peft.tuners.lora import LoraLayer

    changes: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            for adapter in layer.active_adapters:
                change: Tensor = layer.get_delta_weight(adapter).detach()  # type: ignore[attr-defined]
                before = changes.get(f"{name}.weight")
                changes[f"{name}.weight"] = change if before is None else before + change
    return changes
