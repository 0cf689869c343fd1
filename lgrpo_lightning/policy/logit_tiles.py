"""Tiles of logits: some tokens by a part of the vocabulary, forward and backward.

Legend: n tokens, w words of the vocabulary's part, D hidden size, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lgrpo_lightning.policy.compiling import compiled

# Logits computed at once: on a CPU a tile should stay in its cache, an accelerator wants more.
TILE = {"cpu": 2**20}
LARGE_TILE = 2**25
# Tokens of a tile, so that its vocabulary side stays long enough to be fast.
MAX_TOKENS = {"cpu": 2**12}
LARGE_MAX_TOKENS = 2**14
# Logits that are few enough to be kept for backward, 32 MiB in float32, rather than computed again.
KEPT = {"cpu": 2**23}
LARGE_KEPT = LARGE_TILE

HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class LogitTransform:
    """What a model and the sampler do to the head's output.

    Args:
        scale: s, the factor on the head's output.
        soft_cap: c; None for no capping.
        temperature: τ.
    """

    scale: float = 1.0
    soft_cap: float | None = None
    temperature: float = 1.0

    def __call__(self, raw: Tensor) -> Tensor:
        """z/τ of the head's output, in float32 or wider."""
        logits = raw.float() if raw.dtype in HALF else raw
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.soft_cap is not None:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        return logits / self.temperature if self.temperature != 1.0 else logits

    def backward(self, gradient: Tensor, transformed: Tensor) -> Tensor:
        """The gradient of the head's output, given that of z/τ; changes ``gradient`` in place."""
        if self.soft_cap is not None:
            # d tanh = 1 - tanh², and tanh = z/c
            capped = transformed * (self.temperature / self.soft_cap)
            gradient.mul_(1 - capped * capped)
        factor = self.scale / self.temperature
        return gradient if factor == 1.0 else gradient.mul_(factor)


class TileSums(NamedTuple):
    """What is known of n tokens after some tiles, [n] each.

    Attributes:
        chosen: z_y/τ, 0 until its tile came.
        top: the largest z/τ.
        mass: Σ e^(z/τ - top).
        energy: Σ z/τ · e^(z/τ - top), for the entropy; None where that is not asked for.
    """

    chosen: Tensor
    top: Tensor
    mass: Tensor
    energy: Tensor | None


def add_tile(sums: TileSums, raw: Tensor, columns: Tensor, transform: LogitTransform) -> TileSums:
    """The sums with one more tile.

    Args:
        sums: over the tiles before.
        raw: [n, w], the head's output.
        columns: [n] long, the targets' columns, of which some lie in other tiles.
        transform: from the head's output to z/τ.
    """
    logits = transform(raw)
    inside = (columns >= 0) & (columns < logits.shape[1])
    found = logits.gather(1, torch.where(inside, columns, 0).unsqueeze(1))[:, 0]
    top = torch.maximum(sums.top, logits.amax(1))
    shrink = (sums.top - top).exp()
    shares = logits.sub(top.unsqueeze(1)).exp_()
    energy = sums.energy
    if energy is not None:
        energy = energy * shrink + (shares * logits).sum(1)
    return TileSums(
        torch.where(inside, found, sums.chosen), top, sums.mass * shrink + shares.sum(1), energy
    )


def tile_slopes(
    raw: Tensor, columns: Tensor, lse: Tensor, gradient: Tensor, transform: LogitTransform
) -> Tensor:
    """The gradient of the head's output, g·(1[v = y] - π(v)) through the transform.

    Args:
        raw: [n, w], the head's output.
        columns: [n] long, the targets' columns, of which some lie in other tiles.
        lse: [n], logsumexp of z/τ over the vocabulary.
        gradient: [n], g, that of the log-probs.
        transform: from the head's output to z/τ.

    Returns:
        [n, w], float32 or wider.
    """
    logits = transform(raw)
    slopes = logits.sub(lse.unsqueeze(1)).exp_().mul_(-gradient.unsqueeze(1))
    inside = (columns >= 0) & (columns < logits.shape[1])
    at = torch.where(inside, columns, 0).unsqueeze(1)
    slopes.scatter_add_(1, at, (gradient * inside).unsqueeze(1))
    return transform.backward(slopes, logits)


def fused_tile_slopes(
    raw: Tensor,
    columns: Tensor,
    lse: Tensor,
    gradient: Tensor,
    transform: LogitTransform,
    dtype: torch.dtype,
) -> Tensor:
    """The same in another type, for compilers: no scattering, so that it is one pass."""
    logits = transform(raw)
    chosen = torch.arange(logits.shape[1], device=raw.device) == columns.unsqueeze(1)
    slopes = (chosen.to(logits.dtype) - (logits - lse.unsqueeze(1)).exp()) * gradient.unsqueeze(1)
    return transform.backward(slopes, logits).to(dtype)


def slopes_of(
    raw: Tensor,
    columns: Tensor,
    lse: Tensor,
    gradient: Tensor,
    transform: LogitTransform,
    dtype: torch.dtype,
    fused: bool,
) -> Tensor:
    """:func:`tile_slopes` in another type, by one compiled kernel if ``fused``."""
    if fused:
        kernel = compiled(fused_tile_slopes)
        slopes: Tensor = kernel(raw, columns, lse, gradient, transform, dtype)
        return slopes
    return tile_slopes(raw, columns, lse, gradient, transform).to(dtype)


def project(states: Tensor, tile: Tensor, bias: Tensor | None, wide: bool) -> Tensor:
    """The head's output for a part of the vocabulary: W h + b of [n, D], [w, D] and [w]."""
    if not (wide and has_wide_product(states)):
        return F.linear(states, tile, None if bias is None else bias.to(states.dtype))
    output = product(states, tile.T, wide)
    return output if bias is None else output.add_(bias)


def product(left: Tensor, right: Tensor, wide: bool) -> Tensor:
    """Left times right; of half precision in float32 if ``wide`` and there is such a product."""
    if wide and has_wide_product(left):
        return torch.mm(left, right, out_dtype=torch.float32)
    return left @ right


def has_wide_product(states: Tensor) -> bool:
    """Whether products of half precision can keep their float32 sums: for CUDA, since torch 2.8."""
    return states.is_cuda and states.dtype in HALF and hasattr(torch.ops.aten.mm, "dtype")


def token_blocks(states: Tensor) -> list[slice]:
    """The tokens in blocks; one empty block for none."""
    count, most = len(states), MAX_TOKENS.get(states.device.type, LARGE_MAX_TOKENS)
    return [slice(at, min(at + most, count)) for at in range(0, max(count, 1), most)]


def keeps(states: Tensor, vocabulary: int) -> bool:
    """Whether the logits of these tokens are few enough to be kept."""
    return len(states) * vocabulary <= KEPT.get(states.device.type, LARGE_KEPT)


def vocabulary_tiles(states: Tensor, vocabulary: int) -> list[slice]:
    """The vocabulary in parts that make tiles of about ``TILE`` logits with these tokens."""
    width = max(TILE.get(states.device.type, LARGE_TILE) // max(len(states), 1), 1)
    return [slice(start, min(start + width, vocabulary)) for start in range(0, vocabulary, width)]
