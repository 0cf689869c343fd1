"""Loading a causal language model, with or without a LoRA adapter, and its tokenizer."""

import logging
import pickle
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lgrpo_lightning.policy.settings import (
    LoRASettings,
    PolicySettings,
    check_model_path,
    refusal,
)

log = logging.getLogger(__name__)


def load_policy(settings: PolicySettings) -> nn.Module:
    """Load the model to train; with LoRA a peft model whose base is frozen.

    The model comes in train mode, which gradient checkpointing needs; its dropout is off unless
    asked for.

    Raises:
        ValueError: if the model cannot be found, is no causal language model, or has weights whose
            loading could run code.
    """
    config = settings.load_config()
    dtype = "auto" if settings.dtype == "auto" else getattr(torch, settings.dtype)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            settings.path,
            config=config,
            revision=settings.revision,
            dtype=dtype,
            attn_implementation=settings.attn_implementation,
            trust_remote_code=settings.trust_remote_code,
            **_quantization(settings),
        )
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"policy.path {settings.path!r}: refused, and nothing of it was run: its weights are a "
            "pickle that holds more than plain data, which could run code. Take a copy of the "
            "model with model.safetensors"
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(refusal(settings.path, "model", error)) from error
    if settings.disable_dropout:
        disable_dropout(model)
    policy: nn.Module = model if settings.lora is None else add_lora(model, settings.lora)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
        if settings.lora is not None:
            model.enable_input_require_grads()  # type: ignore[no-untyped-call]
    return policy.train()


def _quantization(settings: PolicySettings) -> dict[str, Any]:
    """What transformers is told of it; weights are quantized while they are loaded."""
    if settings.quantization is None:
        return {}
    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": config}


def add_lora(model: PreTrainedModel, lora: LoRASettings) -> nn.Module:
    """Freeze the model and put a fresh adapter on it; its effect is zero at first.

    Raises:
        ValueError: if the model has no such layers.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        use_dora=lora.use_dora,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ValueError(f"policy.lora does not fit the model: {error}") from error


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability in the model to 0, also those used as plain numbers.

    The latter are attributes of modules or of their configuration, such as ``attention_dropout``,
    ``hidden_dropout`` and ``layerdrop``.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        config = getattr(module, "config", None)
        for holder in (module, config) if isinstance(config, PretrainedConfig) else (module,):
            for name, value in vars(holder).items():
                if "drop" in name and isinstance(value, float):
                    setattr(holder, name, 0.0)


def load_tokenizer(settings: PolicySettings) -> PreTrainedTokenizerBase:
    """Load the policy's tokenizer, with a pad token.

    Where the tokenizer has no pad token, its end-of-sequence token serves as one: what is padding
    is decided by lengths here, never by the token.

    Raises:
        ValueError: if there is none, or it has no end-of-sequence token.
    """
    check_model_path(settings.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            settings.path,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise ValueError(refusal(settings.path, "tokenizer", error)) from error
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"the tokenizer of {settings.path!r} has no end-of-sequence token, so no completion "
            "would ever end; set eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        log.info("the tokenizer has no pad token; padding with %r", tokenizer.eos_token)
    return tokenizer


def end_token_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a completion: the tokenizer's, and those the model was released with.

    Chat models often end a turn with another token than their tokenizer's end of sequence.
    """
    released = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = released if isinstance(released, list) else [released]
    return sorted({int(token) for token in [tokenizer.eos_token_id, *several] if token is not None})
