"""From hidden states to log-probs without the logits of all tokens at once.

    log π(y) = z_y/τ - logsumexp_v(z_v/τ)          z = c·tanh(s·(W h + b)/c)

with the head's W and b, the model's logit scale s and soft cap c, and the temperature τ. The
vocabulary is walked in tiles: forward keeps only the logsumexp of each token, backward computes
each tile again. Memory is one tile and the gradient of W instead of [n, V] several times over.

Legend: n tokens, D hidden size, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits computed at once: on a CPU a tile should stay in its cache, an accelerator wants more.
TILE = {"cpu": 2**20}
LARGE_TILE = 2**25
MAX_TOKENS = 4096  # tokens of a tile, so that its vocabulary side stays long enough to be fast


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
        logits = raw.float() if raw.dtype in (torch.bfloat16, torch.float16) else raw
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
        return gradient.mul_(self.scale / self.temperature)


def selected_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    transform: LogitTransform,
    return_entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs of n tokens, and the entropies of the distributions they were drawn from.

    Args:
        hidden: [n, D].
        weight: [V, D].
        bias: [V].
        targets: [n] long, below V.
        transform: from the head's output to z/τ.
        return_entropy: also compute the entropies, in nats, without gradient.

    Returns:
        [n] and [n] or None, float32 or wider.
    """
    logprobs, entropy = _SelectedLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, transform, return_entropy
    )
    return logprobs, entropy


class _SelectedLogprobs(torch.autograd.Function):
    """Both directions tile by tile; under autocast the products run in its type."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's context has no type
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        transform: LogitTransform,
        return_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        compute = compute_dtype(hidden)
        chosen, lse, entropy = [], [], []
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in token_blocks(len(hidden)):
                sums = _walk(
                    hidden[rows].to(compute), weight, bias, targets[rows], transform, return_entropy
                )
                chosen.append(sums[0])
                lse.append(sums[1])
                entropy.append(sums[2])
        total = torch.cat(lse)
        ctx.save_for_backward(hidden, weight, bias, targets, total)
        ctx.transform, ctx.compute = transform, compute
        if not return_entropy:
            return torch.cat(chosen) - total, None
        entropies = torch.cat(entropy)
        ctx.mark_non_differentiable(entropies)
        return torch.cat(chosen) - total, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        hidden, weight, bias, targets, lse = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden, dtype=lse.dtype) if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if needs_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in token_blocks(len(hidden)):
                states = hidden[rows].to(ctx.compute)
                for part in vocabulary_tiles(states, len(weight)):
                    tile = weight[part].to(ctx.compute)
                    logits = ctx.transform(_project(states, tile, bias, part))
                    slope = logits.sub(lse[rows].unsqueeze(1)).exp_()
                    slope.mul_(-gradient[rows].unsqueeze(1))
                    inside, column = _columns(targets[rows], part)
                    slope.scatter_add_(1, column, (gradient[rows] * inside).unsqueeze(1))
                    slope = ctx.transform.backward(slope, logits).to(ctx.compute)
                    if grad_hidden is not None:
                        grad_hidden[rows] += slope @ tile
                    if grad_weight is not None:
                        grad_weight[part] += slope.T @ states
                    if grad_bias is not None:
                        grad_bias[part] += slope.sum(0)
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(hidden.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _walk(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    transform: LogitTransform,
    with_entropy: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """z_y/τ, the logsumexp and the entropy of one block of tokens, in one pass over V."""
    wide = torch.promote_types(states.dtype, torch.float32)
    chosen = torch.zeros(len(states), dtype=wide, device=states.device)
    top = torch.full_like(chosen, -torch.inf)
    mass, energy = torch.zeros_like(chosen), torch.zeros_like(chosen)  # Σ e^(z-top), Σ z·e^(z-top)
    for part in vocabulary_tiles(states, len(weight)):
        logits = transform(_project(states, weight[part].to(states.dtype), bias, part))
        inside, column = _columns(targets, part)
        chosen = torch.where(inside, logits.gather(1, column)[:, 0], chosen)
        new_top = torch.maximum(top, logits.amax(1))
        shrink = (top - new_top).exp()
        shares = logits.sub(new_top.unsqueeze(1)).exp_()
        mass = mass * shrink + shares.sum(1)
        if with_entropy:
            energy = energy * shrink + (shares * logits).sum(1)
        top = new_top
    lse = top + mass.log()
    return chosen, lse, lse - energy / mass


def _project(states: Tensor, tile: Tensor, bias: Tensor | None, part: slice) -> Tensor:
    """The head's output for a part of the vocabulary."""
    return F.linear(states, tile, None if bias is None else bias[part].to(states.dtype))


def _columns(targets: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Which targets lie in a part of the vocabulary, and their columns there, [n, 1]."""
    inside = (targets >= part.start) & (targets < part.stop)
    return inside, torch.where(inside, targets - part.start, 0).unsqueeze(1)


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """The type that autocast would run a linear layer in, or else the hidden states' own."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def token_blocks(count: int) -> list[slice]:
    """The tokens in blocks; one empty block for none."""
    starts = range(0, max(count, 1), MAX_TOKENS)
    return [slice(start, min(start + MAX_TOKENS, count)) for start in starts]


def vocabulary_tiles(states: Tensor, vocabulary: int) -> list[slice]:
    """The vocabulary in parts that make tiles of about ``TILE`` logits with these tokens."""
    width = max(TILE.get(states.device.type, LARGE_TILE) // max(len(states), 1), 1)
    return [slice(start, min(start + width, vocabulary)) for start in range(0, vocabulary, width)]
