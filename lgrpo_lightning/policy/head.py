"""From hidden states to log-probs without the logits of all tokens at once.

    log π(y) = z_y/τ - logsumexp_v(z_v/τ)          z = c·tanh(s·(W h + b)/c)

with the head's W and b, the model's logit scale s and soft cap c, and the temperature τ. The
vocabulary is walked in tiles: forward keeps only the logsumexp of each token, backward computes
each tile again, unless they are few. Memory is one tile and the gradient of W instead of [n, V]
several times over.

Legend: n tokens, D hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lgrpo_lightning.policy.compiling import compiled
from lgrpo_lightning.policy.logit_tiles import (
    LogitTransform,
    TileSums,
    add_tile,
    keeps,
    product,
    project,
    slopes_of,
    token_blocks,
    vocabulary_tiles,
)


def selected_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    transform: LogitTransform,
    return_entropy: bool = False,
    fused: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs of n tokens, and the entropies of the distributions they were drawn from.

    Args:
        hidden: [n, D].
        weight: [V, D].
        bias: [V].
        targets: [n] long, below V.
        transform: from the head's output to z/τ.
        return_entropy: also compute the entropies, in nats, without gradient.
        fused: compile what is done with a tile's logits, for CUDA, and do not round the logits to
            half precision there.

    Returns:
        [n] and [n] or None, float32 or wider.
    """
    logprobs, entropy = _SelectedLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, transform, return_entropy, fused
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
        fused: bool,
    ) -> tuple[Tensor, Tensor | None]:
        compute = compute_dtype(hidden)
        chosen, lse, entropy = [], [], []
        kept: list[Tensor] | None = [] if keeps(hidden, len(weight)) else None
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in token_blocks(hidden):
                sums = _walk(
                    hidden[rows].to(compute),
                    weight,
                    bias,
                    targets[rows],
                    transform,
                    return_entropy,
                    fused,
                    kept,
                )
                total = sums.top + sums.mass.log()
                chosen.append(sums.chosen)
                lse.append(total)
                if sums.energy is not None:
                    entropy.append(total - sums.energy / sums.mass)
        total = torch.cat(lse)
        ctx.save_for_backward(hidden, weight, bias, targets, total, *(kept or ()))
        ctx.transform, ctx.compute, ctx.fused = transform, compute, fused
        if not return_entropy:
            return torch.cat(chosen) - total, None
        entropies = torch.cat(entropy)
        ctx.mark_non_differentiable(entropies)
        return torch.cat(chosen) - total, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        hidden, weight, bias, targets, lse, *tiles = ctx.saved_tensors
        kept = iter(tiles)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden, dtype=lse.dtype) if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if needs_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in token_blocks(hidden):
                states = hidden[rows].to(ctx.compute)
                for part in vocabulary_tiles(states, len(weight)):
                    tile = weight[part].to(ctx.compute)
                    slopes = slopes_of(
                        next(kept)
                        if tiles
                        else project(states, tile, biases(bias, part), ctx.fused),
                        targets[rows] - part.start,
                        lse[rows],
                        gradient[rows],
                        ctx.transform,
                        dtype=ctx.compute,
                        fused=ctx.fused,
                    )
                    if grad_hidden is not None:
                        grad_hidden[rows] += product(slopes, tile, ctx.fused)
                    if grad_weight is not None:
                        grad_weight[part] += product(slopes.T, states, ctx.fused)
                    if grad_bias is not None:
                        grad_bias[part] += slopes.sum(0)
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(hidden.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _walk(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    transform: LogitTransform,
    with_entropy: bool,
    fused: bool,
    kept: list[Tensor] | None,
) -> TileSums:
    """The sums of one block of tokens over the vocabulary; adds its tiles to ``kept``."""
    wide = torch.promote_types(states.dtype, torch.float32)
    zeros = torch.zeros(len(states), dtype=wide, device=states.device)
    # Tensors of their own each, since compilers tell aliases from others.
    sums = TileSums(
        chosen=zeros,
        top=torch.full_like(zeros, -torch.inf),
        mass=zeros.clone(),
        energy=zeros.clone() if with_entropy else None,
    )
    add = compiled(add_tile) if fused else add_tile
    for part in vocabulary_tiles(states, len(weight)):
        tile = weight[part].to(states.dtype)
        raw = project(states, tile, biases(bias, part), fused)
        if kept is not None:
            kept.append(raw)
        sums = add(sums, raw, targets - part.start, transform)
    return sums


def biases(bias: Tensor | None, part: slice) -> Tensor | None:
    """Those of a part of the vocabulary."""
    return None if bias is None else bias[part]


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """The type that autocast would run a linear layer in, or else the hidden states' own."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype
