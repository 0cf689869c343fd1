"""What `lgrpo memory` estimates against what training takes, on a CPU.

Every case is a process of its own, which trains for two optimizer steps by the command line.
Counted is the growth of its resident memory from before it to the peak; a first run of one short
rollout, with the same model, has loaded by then whatever is loaded once. The estimate is told how
long completions were and what they shared, in the rollout with most tokens.

glibc keeps much of what is freed for later, so every case is also run with it told to give that
back at once (MALLOC_MMAP_THRESHOLD_=65536); the difference is what it holds in reserve. The last
line is JSON.

    python -m benchmarks.memory            # the quickstart's model and one of 45 million weights
    python -m benchmarks.memory --only quickstart "45 M, adapter"
"""

import argparse
import contextlib
import ctypes
import gc
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from lgrpo_callbacks import read_jsonl
from lgrpo_lightning.cli import main as lgrpo
from lgrpo_lightning.cli.memory import case_of, options_of, table
from lgrpo_lightning.memory import estimate

ROOT = Path(__file__).parents[1]
MEBIBYTE = 2**20
PROMPT = 128  # tokens
LARGER = (
    *("--data.prompts_per_rollout", "2", "--model.group_size", "8"),
    *("--model.micro_batch_size", "8", "--trainer.accumulate_grad_batches", "2"),
    *("--model.sampling.max_new_tokens", "128", "--data.eval_path", "null"),
    *("--data.shuffle", "false", "--model.sampling.temperature", "1.0"),
)
ADAPTER = ("--model.policy.lora.r", "16")
CASES: dict[str, tuple[str, ...]] = {
    "quickstart": ("--trainer.val_check_interval", "1000", "--trainer.num_sanity_val_steps", "0"),
    "45 M": LARGER,
    "45 M, padded": (*LARGER, "--model.engine", "padded"),
    "45 M, checkpointing": (*LARGER, "--model.policy.gradient_checkpointing", "true"),
    "45 M, adapter": (*LARGER, *ADAPTER),
    "45 M, bf16-mixed": (*LARGER, "--trainer.precision", "bf16-mixed"),
}
RETURNED = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}  # bytes from which memory is mapped by itself
SHORT = (
    *("--data.prompts_per_rollout", "1", "--model.group_size", "2", "--trainer.max_steps", "1"),
    *("--model.micro_batch_size", "2", "--trainer.accumulate_grad_batches", "1"),
    *("--model.sampling.max_new_tokens", "4"),
)


def save_larger(folder: Path) -> tuple[str, ...]:
    """A random Llama of 45 million weights, a tokenizer of words, and prompts; the options."""
    words = {f"w{number}": number for number in range(1000)}
    tokenizer = Tokenizer(models.WordLevel({**words, "<end>": 1000, "<pad>": 1001}, "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>"
    ).save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=9,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1000,
        pad_token_id=1001,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    rows = [
        {"prompt": " ".join(f"w{(31 * row + at) % 999}" for at in range(PROMPT)), "answer": "w1"}
        for row in range(8)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ("--model.policy.path", str(folder / "model"), "--data.path", str(folder / "rows.jsonl"))


def resident(field: str) -> int:
    """Bytes of this process in memory: ``VmRSS`` now, ``VmHWM`` at the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def unique_tokens(groups: list[list[list[int]]]) -> int:
    """Nodes of the prefix trees of some groups."""
    return sum(
        len({tuple(ids[:end]) for ids in group for end in range(1, len(ids) + 1)})
        for group in groups
    )


def measure(name: str) -> dict[str, float]:
    """Train the case in this process; MiB estimated and measured."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as place:
        larger = () if name == "quickstart" else save_larger(Path(place))
        options = (
            *("-c", "configs/quickstart.yaml", "--runs", place, "--trainer.max_steps", "2"),
            *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
            *("--trainer.callbacks", "lgrpo_callbacks.CompletionLogger"),
            *larger,
            *CASES[name],
        )

        def run(*more: str) -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                lgrpo(["fit", *options, *more])

        run(*SHORT)
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        run("--name", "counted")
        peak = resident("VmHWM")
        (log,) = Path(place).glob("counted/*/completions/rank-0.jsonl")
        tokenizer = AutoTokenizer.from_pretrained(options_of(options).model.policy.path)
        rollouts: dict[int, dict[int, list[list[int]]]] = {}
        for number, row in enumerate(read_jsonl(log)):
            ids = tokenizer(row["completion"], add_special_tokens=False).input_ids
            if name != "quickstart":  # a random model draws tokens without a text, and shares none
                ids = [-number, *range(1, row["length"])]
            rollouts.setdefault(row["step"], {}).setdefault(row["group"], []).append(ids)
        most = max((list(groups.values()) for groups in rollouts.values()), key=unique_tokens)
        total = sum(len(ids) for group in most for ids in group)
        case = case_of(
            options_of(options).as_dict(),
            15 if name == "quickstart" else PROMPT,
            round(total / sum(map(len, most))),
            1 - unique_tokens(most) / total,
        )
        found = estimate(case)
    if os.environ.get("VERBOSE"):
        print(table(case, found), file=sys.stderr)
    return {"estimate": found.peak / MEBIBYTE, "measured": (peak - before) / MEBIBYTE}


def main() -> None:
    """Measure every case in a process of its own and print a row of the table for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=CASES)
    parser.add_argument("--here", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.here)))
        return
    print("| case | estimated, MiB | measured, MiB | ÷ | freed given back, MiB | ÷ |")
    print("|---|---|---|---|---|---|")
    figures = {}
    for name in arguments.only:
        kept, returned = in_fresh_process(name, {}), in_fresh_process(name, RETURNED)
        figures[name] = {**kept, "returned": returned["measured"]}
        estimated = kept["estimate"]
        cells = [
            f"{found['measured']:.0f} | {estimated / found['measured']:.2f}"
            for found in (kept, returned)
        ]
        print(f"| {name} | {estimated:.0f} | {' | '.join(cells)} |", flush=True)
    print(json.dumps(figures))


def in_fresh_process(name: str, environment: dict[str, str]) -> dict[str, float]:
    """What :func:`measure` finds in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--here", name]
    ended = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    )
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
