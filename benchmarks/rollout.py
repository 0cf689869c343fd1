"""Tokens per second of the samplers against TRL's way, `generate` with the prompt repeated.

A rollout is B prompts of P tokens with G completions of at most C tokens each, from random Llamas.
Two in C of the vocabulary's tokens end a completion, so that lengths vary as they do in training
(less than half of C on average, some cut off).

    generate        what TRL calls; gives no log-probs
    hf              this package's sampler around it, which does
    shared_prefix   this package's default, which does, too
    graphs          its decoding by CUDA graphs
    slots           the same without graphs
    vllm            the engine, which gets the weights anew for every rollout; not for the tiny
                    model on a CPU, whose attention heads it does not serve there
    continuous      transformers' continuous batching (`generate_batch`), its manager started anew

On a CPU, one thread is used and its CPU time is counted; the contenders take turns, so that what
else the machine does hits all of them, and medians are compared. On CUDA, wall time counts, and
they run one after the other. Every contender has run before it is counted: `graphs` a whole
rollout (`first rollout` is its time, the capture included), the others a short one.

Peak memory is what one rollout takes on top of the loaded model: on a CPU, of a process of its own;
on CUDA, what the allocator reserves.

On CUDA, the log-probs of `graphs` are compared with the padded engine's besides, also for a 7 M
model in float32.

The last line is the figures as JSON.

    python -m benchmarks.rollout --repeats 5
    python -m benchmarks.rollout --device cuda
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.rollout_contenders import (
    CONTENDERS,
    MODELS,
    Case,
    contender,
    llama,
    vocabulary_size,
    word_tokenizer,
)
from lgrpo_lightning.policy import completion_logprobs
from lgrpo_lightning.rollout import SamplingSettings, SharedPrefixSampler

WARM_UP = 16  # tokens
CPU = {"models": ["tiny", "7M"], "batch": 4, "prompts": [64, 512], "groups": [8, 16]}
CPU |= {"length": 128, "repeats": 5, "contenders": ["generate", "hf", "shared_prefix"]}
CUDA = {"models": ["0.5B"], "batch": 8, "prompts": [512], "groups": [16], "length": 512}
CUDA |= {"repeats": 1, "contenders": ["generate", "graphs", "shared_prefix", "continuous"]}

Figures = dict[str, Any]


def seconds(device: torch.device) -> float:
    """The clock: CPU time on a CPU, else wall time of everything that was started."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def on_cpu(case: Case, names: Sequence[str], repeats: int, memory: bool) -> Iterator[Figures]:
    """Speed and, if asked for, memory of all contenders, which take turns."""
    model = llama(case.model, torch.device("cpu"))
    samples = {name: contender(name, case, model) for name in names}
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats + 1):
        for name, sample in samples.items():
            start = time.process_time()
            tokens = sample(turn, case.length if turn else WARM_UP)
            if turn:
                taken[name].append(tokens / (time.process_time() - start))
    for name in names:
        figures = {"contender": name, "tokens_per_second": statistics.median(taken[name])}
        if memory:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                figures["peak_mib"] = pool.apply(cpu_memory, (case, name))
        yield figures


def cpu_memory(case: Case, name: str) -> float:
    """MiB that one rollout takes on top of the loaded model; to be called in a fresh process."""
    torch.set_num_threads(1)
    model = llama(case.model, torch.device("cpu"))
    small = Case(case.model, 2, case.prompt, 1, case.length)
    contender(name, small, model)(0, case.length)  # what libraries allocate once
    sample = contender(name, case, model)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    resident = resident_peak()
    sample(0, case.length)
    return resident_peak() - resident


def resident_peak() -> float:
    """The most memory this process has had, in MiB; on Linux."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 2**10


def on_cuda(
    case: Case, names: Sequence[str], repeats: int, device: torch.device
) -> Iterator[Figures]:
    """Speed and memory of the contenders, one after the other; a failure is told, not raised."""
    model = llama(case.model, device)
    for name in names:
        try:
            yield {"contender": name, **one_on_cuda(name, case, model, repeats)}
        except Exception as error:
            yield {"contender": name, "failed": f"{type(error).__name__}: {error}"[:400]}
            continue
        if name == "graphs":
            yield {"contender": name, "logprob_gap": logprob_gap(case, model)}
            small = Case("7M", 4, 64, 8, 128)
            gap = logprob_gap(small, llama("7M", device, torch.float32))
            yield {"contender": f"{name}, 7M in float32", "logprob_gap": gap}


def one_on_cuda(name: str, case: Case, model: PreTrainedModel, repeats: int) -> Figures:
    """Speed and memory of a contender."""
    device = model.device
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device)
    sample = contender(name, case, model)
    start = seconds(device)
    sample(0, case.length if name == "graphs" else WARM_UP)
    first = seconds(device) - start
    speeds = []
    for turn in range(1, repeats + 1):
        start = seconds(device)
        tokens = sample(turn, case.length)
        speeds.append(tokens / (seconds(device) - start))
    memory = (torch.cuda.max_memory_reserved(device) - before) / 2**20
    figures = {"tokens_per_second": statistics.median(speeds), "peak_mib": memory}
    return figures | ({"first_rollout_seconds": first} if name == "graphs" else {})


def logprob_gap(case: Case, model: PreTrainedModel) -> dict[str, float]:
    """Mean and largest difference of sampled log-probs from the padded engine's."""
    tokenizer = word_tokenizer(vocabulary_size(case.model))
    sampler = SharedPrefixSampler(tokenizer, case.end_tokens(), way="graphs")
    ids = case.prompt_ids(model.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    out = sampler.sample(model, ids, mask, case.group, SamplingSettings(case.length), 0)
    with torch.no_grad():
        parts = [
            completion_logprobs(
                model,
                ids[[prompt]],
                mask[[prompt]],
                out.ids[[prompt]],
                out.mask[[prompt]],
                engine="padded",
            )
            for prompt in range(len(ids))
        ]
    expected = torch.cat(parts)
    gap = (out.logprobs - expected)[out.mask].abs()
    return {"mean": float(gap.mean()), "max": float(gap.max())}


def row(case: Case, figures: Figures, base: float | None) -> str:
    """A row of the table."""
    start = f"| {case.model} | {case.prompt} | {case.group} | {figures['contender']} | "
    if "failed" in figures:
        return f"{start}failed: {figures['failed']} | | |"
    if "logprob_gap" in figures:
        gap = figures["logprob_gap"]
        return f"{start}log-prob gap: mean {gap['mean']:.1e}, max {gap['max']:.1e} | | |"
    speed = figures["tokens_per_second"]
    ratio = f"{speed / base:.2f}" if base else ""
    first = figures.get("first_rollout_seconds")
    note = "" if first is None else f" (first rollout {first:.1f} s)"
    memory = f"{figures['peak_mib']:.0f}" if "peak_mib" in figures else ""
    return f"{start}{speed:.0f}{note} | {ratio} | {memory} |"


def main() -> None:
    """Time every case and print a row for each contender."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--repeats", type=int, help="counted rollouts (default: 5; CUDA: 1)")
    parser.add_argument(
        "--models", nargs="*", choices=MODELS, help="(default: tiny 7M; CUDA: 0.5B)"
    )
    parser.add_argument("--batch", type=int, help="B, in prompts (default: 4; CUDA: 8)")
    parser.add_argument("--prompts", type=int, nargs="*", help="P, in tokens (64 512; CUDA: 512)")
    parser.add_argument("--groups", type=int, nargs="*", help="G, in completions (8 16; CUDA: 16)")
    parser.add_argument("--length", type=int, help="C, in tokens (default: 128; CUDA: 512)")
    parser.add_argument("--contenders", nargs="*", choices=CONTENDERS)
    parser.add_argument(
        "--speed-only", action="store_true", help="on a CPU, leave the memory out: a process each"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = arguments.device
    chosen = {name: value for name, value in vars(arguments).items() if value is not None}
    options = argparse.Namespace(**((CPU if device.type == "cpu" else CUDA) | chosen))
    print("| model | P | G | sampler | tokens/s | ÷ generate | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    all_figures = []
    for case in (
        Case(model, options.batch, prompt, group, options.length)
        for model in options.models
        for prompt in options.prompts
        for group in options.groups
    ):
        names, repeats = options.contenders, options.repeats
        base = None
        rows = (
            on_cpu(case, names, repeats, not options.speed_only)
            if device.type == "cpu"
            else on_cuda(case, names, repeats, device)
        )
        for figures in rows:
            if figures["contender"] == "generate":
                base = figures.get("tokens_per_second")
            print(row(case, figures, base), flush=True)
            all_figures.append({**asdict(case), **figures})
    print(json.dumps(all_figures))


if __name__ == "__main__":
    main()
