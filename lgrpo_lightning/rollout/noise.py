"""Random numbers that belong to a token's place, not to the batch it happens to be drawn in.

    u(seed, row, t) = mix(mix(mix(seed) + row) + t),    mix: the finaliser of SplitMix64

so that a completion's tokens do not depend on which rows are sampled next to it, or when.
Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
"""

import torch
from torch import Tensor


def row_noise(seed: int, rows: int, length: int) -> Tensor:
    """Uniform numbers in [0, 1), multiples of 2^-24: [rows, length, 2] float32, on the CPU."""
    bits = _mix(torch.tensor(seed))
    bits = _mix(bits + torch.arange(rows).unsqueeze(1))
    bits = _mix(bits + torch.arange(length))  # [rows, length]
    return torch.stack([_shift(bits, 40), _shift(bits, 16) & 0xFFFFFF], dim=-1).float() * 2.0**-24


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's step and finaliser on 64 bits; int64 products wrap around as they should."""
    bits = bits + _signed(0x9E3779B97F4A7C15)
    bits = (bits ^ _shift(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift(bits, 27)) * _signed(0x94D049BB133111EB)
    return bits ^ _shift(bits, 31)


def _shift(bits: Tensor, by: int) -> Tensor:
    """A right shift that fills with zeros; torch's fills with the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _signed(bits: int) -> int:
    """64 bits as the signed number torch takes."""
    return bits - (1 << 64)
