"""Attention over packed trees, path by path.

The prompt attends causally to itself. Then the completions of a group are one batch, a row for each
leaf with nodes of its own: queries, keys and values are gathered along its path, and the keys and
values of the prompt stand before them. Nothing depends on how the tree branches.

Legend: R rows, L tokens of a row, H heads, K key-value heads, E head size, S leaves, n nodes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lgrpo_lightning.tree.packing import PackedGroup, PackedTrees


class PathAttention:
    """Attention among the tokens of packed trees, for one pass through a model.

    Args:
        packed: the rows the model runs on.

    Attributes:
        calls: how often it was called.
    """

    def __init__(self, packed: PackedTrees) -> None:
        self.packed = packed
        self.calls = 0
        self.masks: dict[tuple[int, int, int | None], Tensor] = {}

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float | None,
        window: int | None,
        soft_cap: float | None,
        dropout: float,
    ) -> Tensor:
        """Every token attends to itself and to those above it.

        Args:
            query: [R, H, L, E].
            key: [R, K, L, E], H a multiple of K.
            value: [R, K, L, E'].
            scale: the factor on the scores; None for E^(-1/2).
            window: only the last ``window`` tokens of the path; None for all of it.
            soft_cap: c of c·tanh(score/c); None for none.
            dropout: share of the attention weights that is dropped.

        Returns:
            [R, L, H, E'].
        """
        self.calls += 1
        num_rows, heads, length = query.shape[:3]
        queries, keys, values = (
            states.transpose(1, 2).flatten(0, 1) for states in (query, key, value)
        )  # [R·L, heads, E]
        parts, at = [], 0
        for group in self.packed.groups:
            if group.start > at:
                parts.append(queries.new_zeros(group.start - at, heads, value.shape[-1]))
            at = group.node_start + group.num_nodes
            prompt, nodes = slice(group.start, group.node_start), slice(group.node_start, at)
            own = self._mask(0, group.prompt_length, window, query)
            above = [states[prompt].transpose(0, 1).unsqueeze(0) for states in (keys, values)]
            first = queries[prompt].transpose(0, 1).unsqueeze(0)
            out = attention(
                first, above[0], above[1], own, scale, soft_cap, dropout
            )  # [1, H, p, E']
            parts.append(out[0].transpose(0, 1))
            if not group.num_nodes:
                continue
            rows = [take_paths(states[nodes], group) for states in (queries, keys, values)]
            below = [
                torch.cat([prefix.expand(len(row), -1, -1, -1), row], dim=2)
                for prefix, row in zip(above, rows[1:], strict=True)
            ]  # [S, K, p + T, E]
            mask = self._mask(group.prompt_length, group.paths.shape[1], window, query)
            out = attention(
                rows[0], below[0], below[1], mask, scale, soft_cap, dropout
            )  # [S, H, T, E']
            parts.append(out.transpose(1, 2).flatten(0, 1)[group.firsts])
        if at < num_rows * length:
            parts.append(queries.new_zeros(num_rows * length - at, heads, value.shape[-1]))
        return torch.cat(parts).view(num_rows, length, heads, -1)

    def _mask(self, before: int, own: int, window: int | None, like: Tensor) -> Tensor | None:
        """What ``own`` tokens see of ``before + own``; None where it is just causal, [own, …]."""
        total = before + own
        if before == 0 and (window is None or window >= total):
            return None
        at = (before, own, window)
        if at not in self.masks:
            distance = torch.arange(before, total, device=like.device).unsqueeze(1) - torch.arange(
                total, device=like.device
            )
            hidden = (distance < 0) | (distance >= (total if window is None else window))
            self.masks[at] = torch.zeros_like(hidden, dtype=like.dtype).masked_fill_(
                hidden, -torch.inf
            )
        return self.masks[at]


def take_paths(states: Tensor, group: PackedGroup) -> Tensor:
    """The nodes' states along every path, [n, heads, E] to [S, heads, T, E]."""
    rows: Tensor = _TakePaths.apply(states, group)  # type: ignore[no-untyped-call]
    return rows.view(*group.paths.shape, *states.shape[1:]).transpose(1, 2)


class _TakePaths(torch.autograd.Function):
    """Indexing whose backward copies, and adds only where a node comes again.

    The gradient of a path beyond its end is zero: nobody reads those queries, and causality hides
    those keys from everybody else.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, group: PackedGroup) -> Tensor:  # noqa: ANN401
        ctx.group = group
        return states.index_select(0, group.paths.flatten())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        group = ctx.group
        nodes = gradient.index_select(0, group.firsts)
        if len(group.repeats):
            again = group.paths.flatten()[group.repeats]
            nodes.index_add_(0, again, gradient.index_select(0, group.repeats))
        return nodes, None


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float | None,
    soft_cap: float | None,
    dropout: float,
) -> Tensor:
    """Scaled dot-product attention; causal where ``mask`` is None.

    Args:
        query: [S, H, T, E].
        key: [S, K, J, E].
        value: [S, K, J, E'].
        mask: [T, J], added to the scores.
        scale: see :meth:`PathAttention.attend`.
        soft_cap: see there.
        dropout: see there.

    Returns:
        [S, H, T, E'].
    """
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = (states.repeat_interleave(repeats, dim=1) for states in (key, value))
    if soft_cap is None:
        return F.scaled_dot_product_attention(
            query, key, value, mask, dropout, is_causal=mask is None, scale=scale
        )
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = torch.tanh(scores / soft_cap) * soft_cap
    if mask is None:
        above = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(above, -torch.inf)
    else:
        scores = scores + mask
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = F.dropout(scores.softmax(-1, dtype=wide).to(value.dtype), dropout)
    return weights @ value
