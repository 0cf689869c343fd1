"""Which models the tree engine can run, and why not the others."""

from typing import Literal, get_args

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

Engine = Literal["tree", "tree_flex", "padded"]

# Families whose values and gradients are tested against the padded engine.
TREE_FAMILIES = frozenset(
    {
        "cohere",
        "gemma",
        "gemma2",
        "gemma3_text",
        "glm",
        "glm4",
        "gpt2",
        "gpt_neox",
        "granite",
        "llama",
        "mistral",
        "mixtral",
        "olmo2",
        "phi",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "smollm3",
        "starcoder2",
    }
)
SERVED_LAYERS = {"full_attention", "sliding_attention"}
ALIBI = {"bloom", "mpt"}
REMEDY = "use engine: padded"
COMPILED = "its blocks are compiled (policy.compile), which every tree would make happen anew"


def resolve_engine(
    model: nn.Module | PretrainedConfig,
    engine: Engine | Literal["auto"] = "auto",
    compiled: bool = False,
    device: torch.device | None = None,
) -> tuple[Engine, str]:
    """Which engine runs a model, and why, in words for the start of a run.

    Args:
        model: a causal language model, a peft model around one, or its configuration.
        engine: ``"auto"`` for ``"tree"`` wherever it is supported.
        compiled: whether the model's blocks are, or will be, compiled.
        device: where the model will run; None where that is not known yet.

    Raises:
        ValueError: if the tree engine is asked for and cannot serve the model or the device, or
            there is no such engine.
    """
    if engine not in ("auto", *get_args(Engine)):
        raise ValueError(f"engine must be 'auto', 'tree', 'tree_flex' or 'padded', got {engine!r}")
    if engine == "tree_flex" and device is not None and device.type != "cuda":
        raise ValueError(
            f"engine: tree_flex compiles kernels for CUDA, but the model runs on {device}; use "
            "engine: tree, which computes the same"
        )
    if engine == "padded":
        return "padded", "engine: padded was asked for"
    reason = COMPILED if compiled else why_not_tree(model)
    if reason is None and engine == "tree_flex":
        return "tree_flex", "every shared token is computed once, by kernels compiled for CUDA"
    if reason is None:
        return "tree", "every shared token is computed once"
    if engine != "auto":
        raise ValueError(f"the tree engine cannot run this model: {reason}; {REMEDY}")
    return "padded", f"the tree engine cannot run this model: {reason}"


def why_not_tree(model: nn.Module | PretrainedConfig) -> str | None:
    """Why the tree engine cannot run a model; None where it can.

    Tokens of a tree see their ancestors only, and that can be arranged where attention is the only
    thing that mixes tokens and its positions are given from outside.
    """
    config = model if isinstance(model, PretrainedConfig) else causal_lm(model).config
    name = config.model_type
    if config.is_encoder_decoder:
        return f"{name} is an encoder-decoder model"
    if name in ALIBI or getattr(config, "alibi", False):
        return f"{name} adds biases by distance in the row (ALiBi), not by depth in the tree"
    other = set(getattr(config, "layer_types", None) or ()) - SERVED_LAYERS
    if other:
        return (
            f"{name} has layers of type {', '.join(sorted(other))}, which mix tokens in row order"
        )
    if not isinstance(model, PretrainedConfig):
        base = causal_lm(model)
        if base._is_stateful:
            return f"{name} carries a state from token to token in row order"
        if not base._supports_attention_backend and name not in TREE_FAMILIES:
            return f"{name} does not let its attention be chosen (no public attention interface)"
    if name not in TREE_FAMILIES:
        families = ", ".join(sorted(TREE_FAMILIES))
        return f"{name} is not among the families it is tested with ({families})"
    return None


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself, out of a peft model where there is one.

    Raises:
        ValueError: if it is neither.
    """
    base = model if isinstance(model, PreTrainedModel) else unwrapped(model)
    if not isinstance(base, PreTrainedModel):
        raise ValueError(
            f"expected a model of transformers or a peft model around one, got {type(model)}"
        )
    return base


def unwrapped(model: nn.Module) -> nn.Module | None:
    """The model inside a peft model; None for any other module."""
    get_base_model = getattr(model, "get_base_model", None)
    return None if get_base_model is None else get_base_model()
