"""Which models the shared-prefix sampler can run, and why not the others."""

from torch import nn

from lgrpo_lightning.policy.sharding import is_sharded
from lgrpo_lightning.policy.support import ALIBI, causal_lm

# Families whose completions are tested against generate's.
SHARED_PREFIX_FAMILIES = frozenset(
    {
        "cohere",
        "gemma",
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


def why_not_shared_prefix(model: nn.Module) -> str | None:
    """Why the shared-prefix sampler cannot run a model; None where it can.

    Every token has to see the whole prompt and its own completion through attention alone.

    Args:
        model: a causal language model of transformers, or a peft model around one.
    """
    config = causal_lm(model).config
    name = config.model_type
    if config.is_encoder_decoder:
        return f"{name} is an encoder-decoder model"
    if name in ALIBI or getattr(config, "alibi", False):
        return f"{name} adds biases by distance (ALiBi)"
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    if window and window < config.max_position_embeddings:
        return f"{name} has layers that see the last {window} tokens only (sliding window)"
    other = layers - {"full_attention", "sliding_attention"}
    if other:
        return f"{name} has layers of type {', '.join(sorted(other))}, which are no plain attention"
    if name not in SHARED_PREFIX_FAMILIES:
        known = ", ".join(sorted(SHARED_PREFIX_FAMILIES))
        return f"{name} is not among the families it is tested with ({known})"
    if is_sharded(model):
        return (
            "its weights are sharded over processes, which would have to run in step, and they "
            "sample different numbers of tokens"
        )
    return None
