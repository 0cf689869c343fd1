"""Tiny random models of every family, and random groups of completions."""

import types

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 23
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attention_dropout": 0.0,
    "attn_implementation": "sdpa",
}
WINDOW = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
SPECIAL = {
    "cohere": {"logit_scale": 0.25},
    "gemma2": {
        **WINDOW,
        "query_pre_attn_scalar": 4,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        "attn_implementation": "eager",
    },
    "gemma3_text": {**WINDOW, "query_pre_attn_scalar": 4},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
    | {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "gpt_neox": {"hidden_dropout": 0.0},
    "granite": {"logits_scaling": 3.0, "attention_multiplier": 0.3, "residual_multiplier": 0.7},
    "mistral": {"sliding_window": 6},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phi": {"resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "phi3": {"sliding_window": 7, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "qwen2": {"use_sliding_window": True, **WINDOW},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 8},
    "qwen3_moe": EXPERTS,
    "starcoder2": {"sliding_window": None, "residual_dropout": 0.0, "embedding_dropout": 0.0},
}


def tiny_model(family: str, dtype: torch.dtype = torch.float64, **changes) -> PreTrainedModel:
    """A random model whose weights are large enough to make attention and logits matter."""
    torch.manual_seed(0)
    arguments = COMMON | SPECIAL.get(family, {}) | changes
    implementation = arguments.pop("attn_implementation")
    config = CONFIG_MAPPING[family](**arguments)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.4)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    if family in {"mixtral", "qwen2_moe", "qwen3_moe"}:
        model.set_experts_implementation("eager")  # the fused one has no float64
    if dtype == torch.float64:
        use_wide_norms(model)
    return model.to(dtype).train()


def use_wide_norms(model: PreTrainedModel) -> None:
    """Norms of transformers compute in float32 whatever the model's type; these do not."""
    for module in model.modules():
        name = type(module).__name__
        if name.endswith(("RMSNorm", "CohereLayerNorm")):
            module.forward = types.MethodType(wide_norm, module)


def wide_norm(module: torch.nn.Module, states: torch.Tensor) -> torch.Tensor:
    """RMSNorm, Gemma's with 1 + weight, and Cohere's LayerNorm without bias."""
    name = type(module).__name__
    epsilon = next(
        getattr(module, key) for key in ("variance_epsilon", "eps") if hasattr(module, key)
    )
    if "LayerNorm" in name:
        states = states - states.mean(-1, keepdim=True)
    weight = 1 + module.weight if name.startswith("Gemma") else module.weight
    return weight * states * (states.pow(2).mean(-1, keepdim=True) + epsilon).rsqrt()


def tree_batch(seed: int = 0, groups: int = 2, size: int = 5, length: int = 7, tokens: int = 3):
    """Prompts of different lengths; completions of few tokens, so that they share beginnings."""
    generator = torch.Generator().manual_seed(seed)
    prompt_ids = torch.randint(3, VOCABULARY, (groups, 4), generator=generator)
    prompt_lengths = torch.randint(1, 5, (groups, 1), generator=generator)
    prompt_mask = torch.arange(4).flip(0) < prompt_lengths
    ids = torch.randint(3, 3 + tokens, (groups, size, length), generator=generator)
    lengths = torch.randint(0, length + 1, (groups, size, 1), generator=generator)
    lengths[0, 0] = length
    mask = torch.arange(length) < lengths
    ids[0, 1], mask[0, 1] = ids[0, 0], mask[0, 0]  # an exact duplicate
    ids[0, 2], mask[0, 2] = ids[0, 0], mask[0, 0] & (torch.arange(length) < 4)  # a strict prefix
    return prompt_ids, prompt_mask, ids, mask


def oracle(model, prompt_ids, prompt_mask, ids, mask, temperature=1.0, allowed=None):
    """Log-probs and entropies, one completion at a time and without any padding."""
    logprobs, entropies = [], []
    for group, words in enumerate(ids):
        prompt = prompt_ids[group][prompt_mask[group]]
        for row, word in enumerate(words):
            word = word[mask[group, row]]
            logits = model(torch.cat([prompt, word]).unsqueeze(0), use_cache=False).logits[0]
            logits = logits[len(prompt) - 1 : -1] / temperature
            if allowed is not None:
                keep = torch.zeros(logits.shape[-1], dtype=torch.bool)
                keep[allowed] = True
                logits = logits.masked_fill(~keep, -torch.inf)
            every = logits.log_softmax(-1)
            spare = (0, ids.shape[-1] - len(word))
            pad = torch.nn.functional.pad
            logprobs.append(pad(every.gather(1, word.unsqueeze(1))[:, 0], spare))
            terms = (every.exp() * every).nan_to_num(0.0)
            entropies.append(pad(-terms.sum(-1), spare).detach())
    return torch.stack(logprobs).view(ids.shape), torch.stack(entropies).view(ids.shape)
