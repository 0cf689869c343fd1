"""The policy's weights as a checkpoint without an adapter holds them."""

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lgrpo_lightning.policy.support import causal_lm


def merged_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and weights, an adapter merged into what it adapts; tied ones by each of their names.

    The policy's own weights are not touched: to merge an adapter into them and take it out again
    would leave the rounding of both in them, every time. Weights that are sharded over processes
    are gathered one by one: all processes have to go through them at once.

    Args:
        policy: a causal language model of transformers, or a peft model around one.
    """
    model = causal_lm(policy)
    layers = _adapted_layers(model) if model is not policy else {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if "lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        yield plain, _merged(layers[plain]) if plain in layers else _whole(parameter)


def check_mergeable(policy: nn.Module) -> None:
    """Refuse weights that are no plain numbers.

    Raises:
        ValueError: if some are quantized.
    """
    for name, parameter in policy.named_parameters():
        if not parameter.is_floating_point():
            raise ValueError(
                f"sampler: vllm is given plain weights, but {name} is held in {parameter.dtype}; "
                "use sampler: shared_prefix with policy.quantization"
            )


def _adapted_layers(model: nn.Module) -> dict[str, Any]:
    """By the name of a weight, the layer of peft that adapts it."""
    from peft.tuners.lora import LoraLayer

    return {
        f"{name}.weight": layer
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }


def _merged(layer: Any) -> Tensor:  # noqa: ANN401 - a layer of peft
    """The weight of a layer with its adapters, also where they scale it (DoRA)."""
    # Parameters in the copy: without their gradients, and whole.
    parts = {
        id(part): nn.Parameter(_whole(part).clone(), requires_grad=False)
        for part in layer.parameters()
    }
    alone = copy.deepcopy(layer, parts)
    alone.merge()
    weight: Tensor = alone.get_base_layer().weight.detach()
    return weight


def _whole(parameter: Tensor) -> Tensor:
    weight = parameter.detach()
    return weight.full_tensor() if isinstance(weight, DTensor) else weight
