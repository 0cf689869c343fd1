"""Which model to train and how to hold it."""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING


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
        quantization: ``"4bit"`` holds the frozen weights under an adapter in NF4 (QLoRA, arXiv
            2305.14314), by bitsandbytes; None for ``dtype``.
        reference_device: ``"cpu"`` keeps the reference of the KL term in the CPU's memory and
            copies it block by block to the policy's device when it is run; ``"policy"`` keeps it
            there.
        compile: compile the model's blocks by ``torch.compile`` for log-probs and updates;
            sampling stays as it is. For the padded engine only.
    """

    path: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    gradient_checkpointing: bool = False
    disable_dropout: bool = True
    lora: LoRASettings | None = field(default=None)
    quantization: Literal["4bit"] | None = None
    reference_device: Literal["policy", "cpu"] = "policy"
    compile: bool = False

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
        self._check_memory_options()

    def _check_memory_options(self) -> None:
        if self.quantization not in (None, "4bit"):
            raise ValueError(f"policy.quantization must be '4bit' or null, got {self.quantization}")
        if self.quantization is not None and self.lora is None:
            raise ValueError(
                "policy.quantization 4bit needs policy.lora: weights in 4 bits cannot be trained, "
                "an adapter on them can"
            )
        if self.quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError(
                "policy.quantization 4bit needs the package bitsandbytes: pip install "
                "'lgrpo-lightning[4bit]'"
            )
        if self.reference_device not in ("policy", "cpu"):
            raise ValueError(
                f"policy.reference_device must be 'policy' or 'cpu', got {self.reference_device}"
            )
        if self.reference_device == "cpu" and self.lora is not None:
            raise ValueError(
                "policy.reference_device cpu has no effect with policy.lora: the reference is the "
                "policy with its adapter off and takes no memory; leave it out"
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
            raise ValueError(refusal(self.path, "model", error)) from error
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


def refusal(path: str, what: str, error: OSError | ValueError) -> str:
    """Why a model or a tokenizer cannot be loaded."""
    if isinstance(error, ValueError):
        return f"the {what} of policy.path {path!r} cannot be loaded: {error}"
    reason = str(error).partition("\n")[0]
    return (
        f"no {what} could be loaded from {path!r}, neither as a local Hugging Face folder (looked "
        f"in {Path.cwd()}) nor from the hub: {reason}"
    )
