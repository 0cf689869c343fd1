"""What benchmarks/rollout.py compares: random models, and ways of sampling from them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from lgrpo_lightning.rollout import (
    HuggingFaceSampler,
    Sampler,
    SamplingSettings,
    SharedPrefixSampler,
    VLLMSampler,
)

MODELS = {
    # like assets/tiny-addition
    "tiny": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "vocab_size": 64}
    | {"num_attention_heads": 4, "num_key_value_heads": 4},
    # 7 M parameters
    "7M": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "vocab_size": 4096}
    | {"num_attention_heads": 8, "num_key_value_heads": 8},
    # the shape of Qwen2.5-0.5B
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
    | {"num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151_936},
}
SAMPLERS: dict[str, Callable[[Any, list[int]], Sampler]] = {
    "hf": HuggingFaceSampler,
    "shared_prefix": SharedPrefixSampler,
    "graphs": lambda tokenizer, ends: SharedPrefixSampler(tokenizer, ends, way="graphs"),
    "slots": lambda tokenizer, ends: SharedPrefixSampler(tokenizer, ends, way="slots"),
    "vllm": VLLMSampler,
}
CONTENDERS = ("generate", *SAMPLERS, "continuous")

Sample = Callable[[int, int], int]  # from a seed and the most tokens to the number of those sampled


@dataclass(frozen=True)
class Case:
    """Rollouts: which model, B prompts of P tokens, G completions each of C tokens at most."""

    model: str
    prompts: int
    prompt: int
    group: int
    length: int

    def prompt_ids(self, device: torch.device) -> Tensor:
        """[B, P] long; no end token."""
        vocabulary = vocabulary_size(self.model)
        generator = torch.Generator().manual_seed(1)
        shape = (self.prompts, self.prompt)
        return torch.randint(vocabulary // 2, vocabulary, shape, generator=generator).to(device)

    def end_tokens(self) -> list[int]:
        """Two in C of the vocabulary."""
        return list(range(1, 1 + max(2 * vocabulary_size(self.model) // self.length, 1)))


def vocabulary_size(model: str) -> int:
    """V."""
    return int(MODELS[model]["vocab_size"])


def llama(name: str, device: torch.device, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A random Llama, in float32 on a CPU and bfloat16 on CUDA if not told."""
    torch.manual_seed(0)
    config = LlamaConfig(**MODELS[name], max_position_embeddings=2048, tie_word_embeddings=True)  # type: ignore[arg-type]
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.to(device, dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16))  # type: ignore[arg-type]
    return model.eval()  # type: ignore[no-untyped-call, no-any-return]


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Its words are numbers."""
    words = Tokenizer(models.WordLevel({str(i): i for i in range(vocabulary)}, "0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0")  # type: ignore[no-untyped-call]


def contender(name: str, case: Case, model: PreTrainedModel) -> Sample:
    """One way of sampling the rollouts of a case."""
    ids = case.prompt_ids(model.device)
    if name in ("generate", "continuous"):
        rows = ids.repeat_interleave(case.group, dim=0)
        sample = generate if name == "generate" else continuous
        return lambda seed, length: sample(model, rows, generation_config(case, length), seed)
    sampler = SAMPLERS[name](word_tokenizer(vocabulary_size(case.model)), case.end_tokens())
    mask = torch.ones_like(ids, dtype=torch.bool)

    def draw(seed: int, length: int) -> int:
        settings = SamplingSettings(max_new_tokens=length)
        sampler.sync(model)  # as before every rollout
        return int(sampler.sample(model, ids, mask, case.group, settings, seed).lengths.sum())

    return draw


def generation_config(case: Case, length: int) -> GenerationConfig:
    """What the samplers do, in transformers' terms."""
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=length,
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        pad_token_id=0,
        eos_token_id=case.end_tokens(),
    )


@torch.no_grad()
def generate(model: PreTrainedModel, rows: Tensor, config: GenerationConfig, seed: int) -> int:
    """What TRL calls."""
    torch.manual_seed(seed)
    out = model.generate(rows, attention_mask=torch.ones_like(rows), generation_config=config)  # type: ignore[operator]
    return int((out[:, rows.shape[1] :] != 0).sum())  # 0 pads, and is sampled once in V tokens


@torch.no_grad()
def continuous(model: PreTrainedModel, rows: Tensor, config: GenerationConfig, seed: int) -> int:
    """Transformers' continuous batching.

    Raises:
        RuntimeError: if it has not finished all rows; it only logs why.
    """
    torch.manual_seed(seed)
    attention = model.config._attn_implementation
    messages: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    listener = Listener(level=logging.ERROR)
    logging.getLogger("transformers").addHandler(listener)
    try:
        results = model.generate_batch(rows.tolist(), generation_config=config)  # type: ignore[operator]
    finally:
        logging.getLogger("transformers").removeHandler(listener)
        model.config._attn_implementation = attention
    lengths = [len(result.generated_tokens) for result in results.values()]
    if len(lengths) < len(rows) or 0 in lengths:
        raise RuntimeError(f"{len(lengths)} of {len(rows)} rows: {' '.join(messages)[:300]}")
    return sum(lengths)
