"""Time and memory of one update on CUDA: the tree engine against padding, in bf16.

The model is a random Llama with the shape of Qwen2.5-0.5B: 24 layers of width 896, 14 heads, 2 of
keys and values, and 151,936 words. An update is the log-probs of one group, the loss and the
backward pass. The contenders take turns; medians of their wall times are compared. Memory is the
allocator's peak during an update above the model and its gradients.

    tree_flex  engine: tree_flex, FlexAttention and a head of compiled tiles
    tree       engine: tree, attention path by path with SDPA, chunked head
    padded     padded rows with SDPA (flash attention, as no token is masked), chunked head
    plain      padded rows with SDPA, all logits of the completions at once

First the engines are compared for correctness. Every row is printed when it is there, errors with
their traceback and the rest goes on. The last line is JSON.

    python -m benchmarks.update_gpu                        # every shape
    python -m benchmarks.update_gpu --quick                # correctness and one shape
"""

import argparse
import json
import statistics
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.update_groups import Group, Update, engine, own_update, plain_logprobs

VOCABULARY = 151_936
SHAPES = ((2048, 512, 8), (2048, 512, 16), (512, 512, 8), (512, 512, 16))
SHARED = (0.0, 0.2)
CONTENDERS = ("tree_flex", "tree", "padded", "plain")
GIBIBYTE = 2**30


def small_model(dtype: torch.dtype) -> LlamaForCausalLM:
    """The same family with two layers, for correctness."""
    return random_llama(2, 448, 1024, 7, 1, 3000, dtype)


def half_billion(dtype: torch.dtype) -> LlamaForCausalLM:
    """Qwen2.5-0.5B's shape."""
    return random_llama(24, 896, 4864, 14, 2, VOCABULARY, dtype)


def random_llama(
    layers: int, width: int, inner: int, heads: int, key_heads: int, words: int, dtype: torch.dtype
) -> LlamaForCausalLM:
    """A random Llama on CUDA, in train mode, with tied embeddings and SDPA."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.device("cuda"):
        model: LlamaForCausalLM = LlamaForCausalLM(config).train()
    for parameter in model.parameters():
        parameter.data = parameter.to(dtype)
    return model


def check_engines(name: str, dtype: torch.dtype, autocast: bool) -> dict[str, float]:
    """How far the engines' values and gradients are apart on the small model.

    Values are compared by their largest difference in nats, gradients by the norm of the difference
    relative to the norm.
    """
    model = small_model(dtype)
    batch = [part.cuda() for part in Group(200, 150, 6, 0.3, True).tensors(3000)]
    weights = torch.randn(batch[2].shape, generator=torch.Generator().manual_seed(1)).cuda()
    found: dict[str, tuple[torch.Tensor, list[torch.Tensor]]] = {}
    for contender in ("padded", "tree", "tree_flex"):
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            logprobs = engine(contender)(model, *batch)
        (logprobs * weights).sum().backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad.float() for p in model.parameters() if p.grad is not None]
        found[contender] = logprobs.detach().float(), gradients
    expected, wanted = found["padded"]
    norm = sum(float(b.square().sum()) for b in wanted)
    result = {}
    for contender in ("tree", "tree_flex"):
        values, gradients = found[contender]
        gap = sum(float((a - b).square().sum()) for a, b in zip(gradients, wanted, strict=True))
        result[f"{contender} value"] = float((values - expected).abs().max())
        result[f"{contender} mean"] = float((values - expected).abs().sum() / batch[3].sum())
        result[f"{contender} gradient"] = (gap / norm) ** 0.5
    print(
        f"{name}: " + ", ".join(f"{key} {value:.2e}" for key, value in result.items()), flush=True
    )
    return result


def seconds(update: Update) -> float:
    """Wall time of one update."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    update()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(model: LlamaForCausalLM, group: Group, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds and peak memory in GiB of every contender that fits."""
    batch = tuple(part.cuda() for part in group.tensors(VOCABULARY))
    ways = {name: engine(name) for name in CONTENDERS[:-1]} | {"plain": plain_logprobs}
    updates: dict[str, Update] = {}
    figures: dict[str, dict[str, float]] = {}
    for name in CONTENDERS:
        update = own_update(model, batch, ways[name])
        # Twice: kernels are compiled and chosen in the first.
        if attempt(name, update) is None or (peak := attempt(name, update)) is None:
            continue
        updates[name], figures[name] = update, {"gibibytes": peak}
    times: dict[str, list[float]] = {name: [] for name in updates}
    for _ in range(repeats):
        for name, update in updates.items():
            times[name].append(seconds(update))
    for name, taken in times.items():
        figures[name]["seconds"] = statistics.median(taken)
    return figures


def attempt(name: str, update: Callable[[], None]) -> float | None:
    """Peak memory of one update above what is held without it, in GiB; None where it fails."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    try:
        update()
    except torch.OutOfMemoryError:
        print(f"  {name}: out of memory", flush=True)
        return None
    except Exception:  # the other contenders are worth measuring all the same
        print(f"  {name} failed:", flush=True)
        traceback.print_exc()
        return None
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / GIBIBYTE


def row_of(group: Group, figures: dict[str, dict[str, float]]) -> str:
    """One row of the table."""

    def cell(name: str, key: str, scale: float, digits: int) -> str:
        return f"{figures[name][key] * scale:.{digits}f}" if name in figures else "–"

    def ratio(name: str, key: str) -> str:
        if name not in figures or "padded" not in figures:
            return "–"
        return f"{figures['padded'][key] / figures[name][key]:.2f}"

    cells = [
        f"{group.prompt}, {group.completion}, {group.size}",
        f"{group.shared:.0%}",
        f"{group.limit():.2f}",
        *(cell(name, "seconds", 1000, 0) for name in CONTENDERS),
        *(ratio(name, "seconds") for name in CONTENDERS[:2]),
        *(cell(name, "gibibytes", 1, 2) for name in CONTENDERS),
        *(ratio(name, "gibibytes") for name in CONTENDERS[:2]),
    ]
    return f"| {' | '.join(cells)} |"


def profile(model: LlamaForCausalLM, group: Group, lines: int) -> None:
    """Where the time of tree_flex's update goes, by CUDA kernel."""
    batch = tuple(part.cuda() for part in group.tensors(VOCABULARY))
    update = own_update(model, batch, engine("tree_flex"))
    update()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        update()
        torch.cuda.synchronize()
    kernels = [event for event in profiler.key_averages() if event.self_device_time_total > 0]
    kernels.sort(key=lambda event: -event.self_device_time_total)
    print(f"# kernels: {sum(event.self_device_time_total for event in kernels) / 1000:.1f} ms")
    for event in kernels[:lines]:
        spent = event.self_device_time_total / 1000
        print(f"# {spent:8.2f} ms {event.count:5}  {event.key[:90]}", flush=True)


def guarded(name: str, failures: list[str], task: Callable[[], Any]) -> Any:  # noqa: ANN401
    """What a task returns; None, with its traceback printed, where it fails."""
    try:
        return task()
    except Exception as error:  # the other tasks are worth running all the same
        print(f"{name} failed:", flush=True)
        traceback.print_exc()
        failures.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
        return None


def main() -> None:
    """Check the engines, measure every shape, print rows and at last JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="counted turns (default: 5)")
    parser.add_argument("--quick", action="store_true", help="only the first shape, 20 %% shared")
    parser.add_argument("--profile", type=int, default=0, metavar="LINES", help="kernels to list")
    arguments = parser.parse_args()
    start = time.perf_counter()
    failures: list[str] = []
    checks = {}
    kinds = {
        "float32": (torch.float32, False),
        "bf16": (torch.bfloat16, False),
        "bf16-mixed": (torch.float32, True),
    }
    for name, kind in kinds.items():
        checks[name] = guarded(name, failures, partial(check_engines, name, *kind))
    print(f"# checked after {time.perf_counter() - start:.0f} s on {torch.cuda.get_device_name()}")
    model = half_billion(torch.bfloat16)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ratios = [f"padded ÷ {name}" for name in CONTENDERS[:2]]
    times = [f"{name} ms" for name in CONTENDERS]
    sizes = [f"{name} GiB" for name in CONTENDERS]
    heads = ("P, C, G", "shared", "limit", *times, *ratios, *sizes, *ratios)
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    rows = []
    for shape in SHAPES[:1] if arguments.quick else SHAPES:
        for shared in SHARED[1:] if arguments.quick else SHARED:
            group = Group(*shape, shared)
            task = partial(measure, model, group, arguments.repeats)
            figures = guarded(f"{shape}, {shared}", failures, task)
            if figures is not None:
                print(row_of(group, figures), flush=True)
                rows.append({**vars(group), "limit": group.limit(), "contenders": figures})
    if arguments.profile:
        group = Group(*SHAPES[0], SHARED[1])
        guarded("profile", failures, partial(profile, model, group, arguments.profile))
    result = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "checks": checks,
        "rows": rows,
        "failures": failures,
        "wall_seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
