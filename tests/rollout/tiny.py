"""A tokenizer of letters, tiny random policies of every family, and prompts for them."""

import string

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

WORDS = ["<pad>", "<eos>", "<end>", *string.ascii_lowercase[:20], "ab", "bc"]
VOCABULARY = len(WORDS)
PAD, EOS, END = 0, 1, 2

COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": EOS,
}
SPECIAL = {
    "cohere": {"logit_scale": 0.25},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "granite": {"logits_scaling": 3.0, "attention_multiplier": 0.3, "residual_multiplier": 0.7},
    "mistral": {"sliding_window": None},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phi3": {"sliding_window": None},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
    },
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8},
    "starcoder2": {"sliding_window": None},
}


def letters() -> PreTrainedTokenizerFast:
    """Every letter is a token, and some pairs are."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def tiny_policy(family: str = "llama", seed: int = 0, **changes) -> PreTrainedModel:
    """A random model whose weights are large enough to make attention and positions matter."""
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[family](**(COMMON | SPECIAL.get(family, {}) | changes))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.4)
    return model.train()


def prompts(*texts: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of prompts, left-padded: [B, P] long and bool."""
    encoded = letters()(list(texts), return_tensors="pt", padding=True)
    return encoded["input_ids"], encoded["attention_mask"].bool()


PROMPTS = ("abcde", "f", "ghi")
