"""Random numbers that depend on where a run is, not on how it got there.

A rollout is seeded by (seed, rank, epoch, index). A resumed run therefore samples what the
uninterrupted one would have, and nothing has to be stored.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*parts: int | str) -> int:
    """A seed for torch in [0, 2^63) that is a fixed function of the parts."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the default generators of the CPU and of ``device``; put both back afterwards."""
    devices = [device] if device.type not in ("cpu", "meta") else []
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        if devices:
            torch.manual_seed(seed)
        else:
            # torch.manual_seed would note a stack trace for every accelerator not in use.
            torch.default_generator.manual_seed(seed)
        yield
