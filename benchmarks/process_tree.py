"""Time of the process tree against tries in plain Python, one thread.

Both sides answer the same question, the set sizes |λ(i,t)| of every token. The tries get their
tokens as Python lists, ready made; the tensors of the process tree are ready made, too. Two tries
are timed: one object per node, as it is usually written, and one dict for all nodes, the fastest
one found. Python's garbage collector is on, as in a training run; it takes most of the time of the
object trie. The contenders take turns; the medians are printed, and in the last line as JSON.

    python benchmarks/process_tree.py --repeats 15
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from lgrpo_lightning.tree import ProcessTree

Completions = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Case:
    """B groups of G completions of T tokens, the first ``shared`` of them common to a group."""

    name: str
    groups: int
    completions: int
    tokens: int
    shared: float
    vocabulary: int


CASES = (
    Case("long, nothing shared", 1, 16, 8192, 0.0, 32_000),
    Case("long, 25 % shared", 1, 16, 8192, 0.25, 32_000),
    Case("quickstart, 16 prompts", 16, 8, 40, 0.5, 29),
    Case("quickstart, 32 prompts", 32, 8, 40, 0.5, 29),
)


@dataclass(slots=True)
class Node:
    """A node of the usual trie."""

    count: int = 0
    children: dict[int, "Node"] = field(default_factory=dict)


def object_trie(group: Completions) -> list[list[int]]:
    """Set sizes by a trie of one object per node."""
    root = Node()
    paths = []
    for tokens in group:
        node, path = root, []
        for token in tokens:
            child = node.children.get(token)
            if child is None:
                child = node.children[token] = Node()
            child.count += 1
            path.append(child)
            node = child
        paths.append(path)
    return [[node.count for node in path] for path in paths]


def flat_trie(group: Completions) -> list[list[int]]:
    """Set sizes by a trie in one dict, (parent, token) → node."""
    nodes: dict[tuple[int, int], int] = {}
    counts = [0]
    paths = []
    for tokens in group:
        node, path = 0, []
        for token in tokens:
            key = (node, token)
            child = nodes.get(key)
            if child is None:
                child = nodes[key] = len(counts)
                counts.append(0)
            counts[child] += 1
            path.append(child)
            node = child
        paths.append(path)
    return [[counts[node] for node in path] for path in paths]


def completions_of(case: Case, generator: torch.Generator) -> Tensor:
    """Random token ids with a common beginning in every group, [B, G, T] long."""
    shape = (case.groups, case.completions, case.tokens)
    ids = torch.randint(case.vocabulary, shape, generator=generator)
    common = int(case.tokens * case.shared)
    ids[..., :common] = ids[:, :1, :common]
    return ids


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call. The result is dropped, and freed, after the clock has stopped."""
    gc.collect()
    start = time.perf_counter()
    result = work()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def measure(case: Case, repeats: int) -> dict[str, float]:
    """Median milliseconds of each contender, after a check that all of them agree."""
    ids = completions_of(case, torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids, dtype=torch.bool)
    groups: list[list[list[int]]] = ids.tolist()
    contenders: dict[str, Callable[[], object]] = {
        "tree": lambda: ProcessTree.from_completions(ids, mask),
        "object_trie": lambda: [object_trie(group) for group in groups],
        "flat_trie": lambda: [flat_trie(group) for group in groups],
    }
    expected = ProcessTree.from_completions(ids, mask).set_sizes.flatten(0, 1).tolist()
    for trie in (object_trie, flat_trie):
        if list(chain.from_iterable(map(trie, groups))) != expected:
            raise AssertionError(f"{trie.__name__} and the process tree disagree on {case.name!r}")
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            times[name].append(seconds(work))
    return {name: 1e3 * statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    """Time all cases and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="timings per contender (15)")
    repeats: int = parser.parse_args().repeats
    if repeats < 1:
        parser.error(f"--repeats must be at least 1, got {repeats}")
    torch.set_num_threads(1)
    print("milliseconds, median; × is the time of the trie over that of the process tree\n")
    print(f"{'case':24}{'B':>4}{'G':>4}{'T':>6}{'tree':>9}{'object trie':>19}{'flat trie':>19}")
    rows = []
    for case in CASES:
        times = measure(case, repeats)
        speedups = {
            f"{trie}_ratio": times[trie] / times["tree"] for trie in ("object_trie", "flat_trie")
        }
        print(
            f"{case.name:24}{case.groups:4}{case.completions:4}{case.tokens:6}{times['tree']:9.2f}"
            f"{times['object_trie']:12.1f} {speedups['object_trie_ratio']:5.1f}×"
            f"{times['flat_trie']:12.1f} {speedups['flat_trie_ratio']:5.1f}×"
        )
        rows.append({"case": case.name, **{k: round(v, 3) for k, v in (times | speedups).items()}})
    print(json.dumps({"benchmark": "process_tree", "repeats": repeats, "cases": rows}))


if __name__ == "__main__":
    main()
