"""Tokens per second of the samplers against TRL's way, `generate` with the prompt repeated.

A rollout is 4 prompts of P tokens with G completions of at most 128 tokens each, from random
Llamas. A 64th of the vocabulary ends a completion, so that lengths vary as they do in training
(about 55 tokens on average, some cut off). The contenders take turns, so that what else the machine
does hits all of them; the medians are compared. On a CPU, one thread is used and its CPU time is
counted; on CUDA, wall time.

    generate        what TRL calls; gives no log-probs
    hf              this package's sampler around it, which does
    shared_prefix   this package's default, which does, too
    vllm            the engine, which gets the weights anew for every rollout; not for the tiny
                    model on a CPU, whose attention heads it does not serve there

Peak memory is what a process of its own needs for one rollout on top of the loaded model.

    python -m benchmarks.rollout --repeats 5 --json rollout.json
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
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

PROMPTS = 4
LENGTH = 128
CONTENDERS = ("generate", "hf", "shared_prefix", "vllm")
SAMPLERS: dict[str, Callable[[Any, list[int], None], Sampler]] = {
    "hf": HuggingFaceSampler,
    "shared_prefix": SharedPrefixSampler,
    "vllm": VLLMSampler,
}
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


@dataclass(frozen=True)
class Case:
    """One rollout: which model, P and G."""

    model: str
    prompt: int
    group: int


def llama(name: str, device: torch.device) -> PreTrainedModel:
    """A random Llama, in float32 on a CPU and bfloat16 on CUDA."""
    torch.manual_seed(0)
    config = LlamaConfig(**MODELS[name], max_position_embeddings=2048, tie_word_embeddings=True)  # type: ignore[arg-type]
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    model.to(device, dtype)  # type: ignore[arg-type]
    return model.eval()  # type: ignore[no-untyped-call, no-any-return]


def sampling(case: Case, name: str, device: torch.device) -> Callable[[int], int]:
    """A contender: from a seed to the number of sampled tokens."""
    model = llama(case.model, device)
    vocabulary = model.config.vocab_size
    ends = list(range(1, 1 + vocabulary // 64))
    generator = torch.Generator().manual_seed(1)
    shape = (PROMPTS, case.prompt)
    ids = torch.randint(vocabulary // 2, vocabulary, shape, generator=generator).to(device)
    if name == "generate":
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=LENGTH,
            do_sample=True,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            pad_token_id=0,
            eos_token_id=ends,
        )
        rows = ids.repeat_interleave(case.group, dim=0)

        @torch.no_grad()
        def generate(seed: int) -> int:
            torch.manual_seed(seed)
            out = model.generate(  # type: ignore[operator]
                rows, attention_mask=torch.ones_like(rows), generation_config=config
            )
            return int((out[:, case.prompt :] != 0).sum())  # 0 is sampled once in 64 times 64

        return generate
    words = Tokenizer(models.WordLevel({str(i): i for i in range(vocabulary)}, "0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0")  # type: ignore[no-untyped-call]
    sampler = SAMPLERS[name](tokenizer, ends, None)
    settings = SamplingSettings(max_new_tokens=LENGTH)
    mask = torch.ones_like(ids, dtype=torch.bool)
    return lambda seed: int(
        sampler.sample(model, ids, mask, case.group, settings, seed).lengths.sum()
    )


def seconds(device: torch.device) -> float:
    """The clock: CPU time on a CPU, else wall time of everything that was started."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def speeds(
    case: Case, names: Sequence[str], repeats: int, device: torch.device
) -> dict[str, float]:
    """The median tokens per second of each contender; they take turns, one is not counted."""
    contenders = {name: sampling(case, name, device) for name in names}
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats + 1):
        for name, sample in contenders.items():
            start = seconds(device)
            tokens = sample(turn)
            speed = tokens / (seconds(device) - start)
            if turn:
                taken[name].append(speed)
    return {name: statistics.median(values) for name, values in taken.items()}


def peak_memory(case: Case, name: str, device: torch.device) -> float:
    """MiB that one rollout takes on top of the loaded model; to be called in a fresh process."""
    torch.set_num_threads(1)
    sample = sampling(case, name, device)
    small = sampling(Case(case.model, 2, 1), name, device)
    small(0)  # what libraries allocate once
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        sample(0)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    resident = resident_peak()
    sample(0)
    return resident_peak() - resident


def resident_peak() -> float:
    """The most memory this process has had, in MiB; on Linux."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 2**10


def peak_memories(case: Case, names: Sequence[str], device: torch.device) -> dict[str, float]:
    """The peak memory of each contender, in MiB."""
    memories = {}
    for name in names:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memories[name] = pool.apply(peak_memory, (case, name, device))
    return memories


def main() -> None:
    """Time every case and print one row for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="counted turns (default: 5)")
    parser.add_argument("--models", nargs="*", default=["tiny", "7M"], choices=MODELS)
    parser.add_argument("--prompts", type=int, nargs="*", default=[64, 512], help="P, in tokens")
    parser.add_argument("--groups", type=int, nargs="*", default=[8, 16], help="G, in completions")
    parser.add_argument("--contenders", nargs="*", default=CONTENDERS[:3], choices=CONTENDERS)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in CONTENDERS if name in ("generate", *arguments.contenders)]
    print(f"speed ÷ generate and peak MiB: {', '.join(names)}\n")
    print("| model | P | G | generate, tokens/s | speed | memory |\n|---|---|---|---|---|---|")
    figures = []
    for case in (
        Case(model, prompt, group)
        for model in arguments.models
        for prompt in arguments.prompts
        for group in arguments.groups
    ):
        speed = speeds(case, names, arguments.repeats, arguments.device)
        memory = peak_memories(case, names, arguments.device)
        figures.append({**asdict(case), "tokens_per_second": speed, "peak_mib": memory})
        base = speed["generate"]
        ratios = ", ".join(f"{speed[name] / base:.2f}" for name in names)
        sizes = ", ".join(f"{memory[name]:.0f}" for name in names)
        print(
            f"| {case.model} | {case.prompt} | {case.group} | {base:.0f} | {ratios} | {sizes} |",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
