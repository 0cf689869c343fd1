"""Loading a causal language model, with or without a LoRA adapter, and its tokenizer."""

import importlib.util
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

log = logging.getLogger(__name__)


@dataclass
class LoRASettings:
    """A low-rank adapter on a frozen model (LoRA, arXiv 2106.09685), by peft.

    Args:
        r: rank of the update.
        alpha: the update is scaled by alpha / r.
        dropout: dropout on the adapter's input while training.
        target_modules: ``"all-linear"``, or names of the layers to adapt.
        use_dora: split magnitude and direction (DoRA, arXiv 2402.09353).
    """

    r: int = 64
    alpha: int = 128
    dropout: float = 0.05
    target_modules: str | list[str] = "all-linear"
    use_dora: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.r < 1:
            raise ValueError(f"lora.r must be at least 1, got {self.r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout must be in [0, 1), got {self.dropout}")


@dataclass
class PolicySettings:
    """Which model to train, and how to hold it.

    Args:
        path: a local folder in the Hugging Face format, or a name on the hub.
        revision: branch, tag or commit on the hub.
        dtype: type the weights are held in. Keep ``"float32"`` for mixed precision, where the
            trainer casts; ``"auto"`` takes the type they were saved in.
        attn_implementation: transformers' attention, e.g. ``"sdpa"``, ``"eager"``,
            ``"flash_attention_2"``; None for the model's own choice.
        trust_remote_code: run Python code that comes with the model. Off unless you trust it.
        gradient_checkpointing: recompute activations in the backward pass: less memory, a third
            more time.
        disable_dropout: set the model's own dropout to 0 (the adapter's stays), so that the policy
            that is updated is the one that sampled.
        lora: train an adapter instead of all weights; None for full fine-tuning.
    """

    path: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    gradient_checkpointing: bool = False
    disable_dropout: bool = True
    lora: LoRASettings | None = field(default=None)

    def __post_init__(self) -> None:
        """Fail on what would only be found out after loading the weights."""
        if isinstance(self.lora, dict):  # as a checkpoint holds it
            self.lora = LoRASettings(**self.lora)
        if not self.path:
            raise ValueError("policy.path is empty; give a local model folder or a hub name")
        if self.lora is not None and importlib.util.find_spec("peft") is None:
            raise ValueError(
                "policy.lora needs the package peft: pip install 'lgrpo-lightning[lora]'"
            )

    def load_config(self) -> PretrainedConfig:
        """The model's configuration, without its weights.

        Raises:
            ValueError: if there is no such folder or hub model, or it is no causal language model.
        """
        check_model_path(self.path)
        try:
            config: PretrainedConfig = AutoConfig.from_pretrained(
                self.path, revision=self.revision, trust_remote_code=self.trust_remote_code
            )
        except (OSError, ValueError) as error:
            raise ValueError(_refusal(self.path, "model", error)) from error
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not self._own_code(config):
            raise ValueError(
                f"policy.path {self.path!r} holds a {config.model_type} model, which transformers "
                "has no causal language model for; give one that continues text"
            )
        return config

    def _own_code(self, config: PretrainedConfig) -> bool:
        """Whether the model comes with code of its own that may be run."""
        return self.trust_remote_code and "auto_map" in config.to_dict()


def check_model_path(path: str) -> None:
    """Refuse a path that can only be local and is not a model folder, before any download.

    Raises:
        ValueError: if ``path`` looks like a local path but holds no ``config.json``.
    """
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1 or Path(path).exists()
    if looks_local and not (Path(path) / "config.json").is_file():
        what = "has no config.json" if Path(path).is_dir() else "does not exist"
        raise ValueError(
            f"policy.path {path!r} {what} (looked in {Path(path).resolve()}); "
            "give a Hugging Face model folder or a hub name such as Qwen/Qwen2.5-0.5B-Instruct"
        )


def load_policy(settings: PolicySettings) -> nn.Module:
    """Load the model to train; with LoRA a peft model whose base is frozen.

    The model comes in train mode, which gradient checkpointing needs; its dropout is off unless
    asked for.

    Raises:
        ValueError: if the model cannot be found or is no causal language model.
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
        )
    except (OSError, ValueError) as error:
        raise ValueError(_refusal(settings.path, "model", error)) from error
    if settings.disable_dropout:
        disable_dropout(model)
    policy: nn.Module = model if settings.lora is None else add_lora(model, settings.lora)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
        if settings.lora is not None:
            model.enable_input_require_grads()  # type: ignore[no-untyped-call]
    return policy.train()


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
        raise ValueError(_refusal(settings.path, "tokenizer", error)) from error
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


def _refusal(path: str, what: str, error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return f"the {what} of policy.path {path!r} cannot be loaded: {error}"
    reason = str(error).partition("\n")[0]
    return (
        f"no {what} could be loaded from {path!r}, neither as a local Hugging Face folder (looked "
        f"in {Path.cwd()}) nor from the hub: {reason}"
    )
