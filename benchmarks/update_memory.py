"""Peak memory of one update above that of the model and its gradients, by contender.

Every contender runs in a process of its own. Counted is the growth of the process's peak resident
memory (on CUDA, of the allocator's peak) over what it held before the update, with the gradients
already there. See benchmarks/update.py for the contenders.

    python -m benchmarks.update_memory --prompt 64 --completion 512 --size 8 \
        --vocabulary 151936 --width 896 --layers 2
    python -m benchmarks.update_memory --prompt 512 --completion 128 --size 16
"""

import argparse
import resource
import subprocess
import sys

import torch

from benchmarks.update import CONTENDERS
from benchmarks.update_cases import contender, llama
from benchmarks.update_groups import Group

MEBIBYTE = 2**20


def growth(name: str, arguments: argparse.Namespace) -> float:
    """Peak memory of one update in MiB, above what was there before."""
    torch.set_num_threads(1)
    width = arguments.width
    inner = 688 * width // 256
    model = llama(arguments.vocabulary, arguments.layers, width, inner).to(arguments.device)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    group = Group(arguments.prompt, arguments.completion, arguments.size, arguments.shared)
    update = contender(name, model, group)
    # The update clears the gradients first, so that the peak holds one set of them at most.
    if arguments.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        update()
        return (torch.cuda.max_memory_allocated() - before) / MEBIBYTE
    before = resident()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak > before + 64 * MEBIBYTE:
        raise RuntimeError("loading the model took more memory than it holds; measure on CUDA")
    update()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / MEBIBYTE


def resident() -> int:
    """Bytes of this process that are in memory now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main() -> None:
    """Measure every contender in a process of its own, or the one that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt", type=int, default=512, help="prompt tokens")
    parser.add_argument("--completion", type=int, default=128, help="completion tokens")
    parser.add_argument("--size", type=int, default=16, help="completions")
    parser.add_argument("--shared", type=float, default=0.0, help="mean share they share")
    parser.add_argument("--vocabulary", type=int, default=4096, help="tokens")
    parser.add_argument("--width", type=int, default=256, help="hidden size")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--contenders", nargs="*", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--only", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(f"{arguments.only:8} {growth(arguments.only, arguments):8.0f} MiB", flush=True)
        return
    for name in arguments.contenders:
        command = [sys.executable, "-m", "benchmarks.update_memory", *sys.argv[1:], "--only", name]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
