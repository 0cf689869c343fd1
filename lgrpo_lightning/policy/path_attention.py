"""Attention over packed trees, path by path.

The prompt attends causally to itself. Then the leaves of a group come in batches, a row for each:
queries, keys and values are gathered along its path, and the keys and values of the prompt stand
before them. It is what padded rows do, without the queries of the prompt, and with hardly any that
two paths share.

Legend: R rows, L tokens of a row, H heads, K key-value heads, E head size, S leaves of a batch, T
tokens of its paths, p prompt tokens, n nodes.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lgrpo_lightning.tree.packing import PackedGroup, PackedTrees
from lgrpo_lightning.tree.paths import GroupPaths


@dataclass(frozen=True)
class Scoring:
    """How scores become weights.

    Args:
        scale: the factor on the scores; None for E^(-1/2).
        window: only the last ``window`` tokens of the path are seen; None for all of it.
        soft_cap: c of c·tanh(score/c); None for none.
        dropout: share of the attention weights that is dropped.
    """

    scale: float | None = None
    window: int | None = None
    soft_cap: float | None = None
    dropout: float = 0.0


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
        self.masks: dict[tuple[int, int, int | None, torch.dtype], Tensor] = {}

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Every token attends to itself and to those above it.

        Args:
            query: [R, H, L, E].
            key: [R, K, L, E], H a multiple of K.
            value: [R, K, L, E'].
            scoring: how scores become weights.

        Returns:
            [R, L, H, E'].
        """
        self.calls += 1
        num_rows, heads, length = query.shape[:3]
        sizes, at = [], 0
        for group in self.packed.groups:
            sizes += [group.start - at, group.prompt_length, group.num_nodes]
            at = group.node_start + group.num_nodes
        sizes.append(num_rows * length - at)
        # Split rather than sliced: a slice's gradient is as large as all it was taken from.
        states = [
            torch.split(part.transpose(1, 2).flatten(0, 1), sizes) for part in (query, key, value)
        ]
        outputs = []
        for index, group in enumerate(self.packed.groups):
            _, prompt, nodes = (
                tuple(part[3 * index + offset] for part in states) for offset in range(3)
            )
            outputs.append(value.new_zeros(sizes[3 * index], heads, value.shape[-1]))
            outputs += self._attend_within(group, prompt, nodes, scoring)
        outputs.append(value.new_zeros(sizes[-1], heads, value.shape[-1]))
        return torch.cat(outputs).view(num_rows, length, heads, -1)

    def _attend_within(
        self,
        group: PackedGroup,
        prompt: tuple[Tensor, ...],
        nodes: tuple[Tensor, ...],
        scoring: Scoring,
    ) -> list[Tensor]:
        """Outputs of a group's prompt and nodes, [p, H, E'] and [n, H, E']."""
        query, key, value = (part.transpose(0, 1).unsqueeze(0) for part in prompt)
        mask = self._mask(0, group.prompt_length, scoring.window, query)
        outputs = [attention(query, key, value, mask, scoring)[0].transpose(0, 1)]
        if not group.num_nodes:
            return outputs
        paths = group.paths
        asked = _TakeQueries.apply(nodes[0], paths)  # type: ignore[no-untyped-call]
        seen = [_TakePaths.apply(part, paths) for part in nodes[1:]]  # type: ignore[no-untyped-call]
        found = []
        for batch, queries, keys, values in zip(
            paths.batches,
            asked.split([batch.leaves * (batch.length - batch.skip) for batch in paths.batches]),
            *(
                part.split([batch.leaves * batch.length for batch in paths.batches])
                for part in seen
            ),
            strict=True,
        ):
            before = group.prompt_length + batch.skip
            mask = self._mask(before, batch.length - batch.skip, scoring.window, query)
            output = attention(
                rowed(queries, batch.leaves),
                torch.cat([key.expand(batch.leaves, -1, -1, -1), rowed(keys, batch.leaves)], dim=2),
                torch.cat(
                    [value.expand(batch.leaves, -1, -1, -1), rowed(values, batch.leaves)], dim=2
                ),
                mask,
                scoring,
            )
            found.append(output.transpose(1, 2).flatten(0, 1))
        outputs.append(_PickOutputs.apply(torch.cat(found), paths))  # type: ignore[no-untyped-call]
        return outputs

    def _mask(self, before: int, own: int, window: int | None, like: Tensor) -> Tensor | None:
        """What ``own`` tokens see of ``before + own``; None where it is just causal."""
        total = before + own
        if before == 0 and (window is None or window >= total):
            return None
        at = (before, own, window, like.dtype)
        if at not in self.masks:
            steps = torch.arange(total, device=like.device)
            distance = steps[before:].unsqueeze(1) - steps
            hidden = (distance < 0) | (distance >= (total if window is None else window))
            mask = torch.zeros(own, total, dtype=like.dtype, device=like.device)
            self.masks[at] = mask.masked_fill_(hidden, -torch.inf)
        return self.masks[at]


def rowed(states: Tensor, leaves: int) -> Tensor:
    """[S·T, heads, E] to [S, heads, T, E]."""
    return states.view(leaves, -1, *states.shape[1:]).transpose(1, 2)


class _TakeQueries(torch.autograd.Function):
    """[n, H, E] to [Σ S·(T - skip), H, E], the queries of all paths.

    Backward copies: a query that another row or batch asks, too, is read only where it is new, and
    has no gradient elsewhere.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, paths: GroupPaths) -> Tensor:  # noqa: ANN401
        ctx.paths = paths
        return states.index_select(0, paths.queries)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return gradient.index_select(0, ctx.paths.outputs), None


class _TakePaths(torch.autograd.Function):
    """[n, heads, E] to [Σ S·T, heads, E], the nodes along all paths.

    Backward copies, and adds only where a node comes again. What lies beyond a path's end has no
    gradient: nobody reads those queries, and causality hides those keys from everybody else.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, paths: GroupPaths) -> Tensor:  # noqa: ANN401
        ctx.paths = paths
        return states.index_select(0, paths.nodes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        paths = ctx.paths
        nodes = gradient.index_select(0, paths.firsts)
        if len(paths.repeats):
            again = paths.nodes[paths.repeats]
            nodes.index_add_(0, again, gradient.index_select(0, paths.repeats))
        return nodes, None


class _PickOutputs(torch.autograd.Function):
    """[Σ S·(T - skip), H, E'] to [n, H, E'], each node's output from the row where it is new."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, paths: GroupPaths) -> Tensor:  # noqa: ANN401
        ctx.paths, ctx.shape = paths, outputs.shape
        return outputs.index_select(0, paths.outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        spread = gradient.new_zeros(ctx.shape)
        return spread.index_copy_(0, ctx.paths.outputs, gradient), None


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scoring: Scoring
) -> Tensor:
    """Scaled dot-product attention; causal where ``mask`` is None.

    Args:
        query: [S, H, T, E].
        key: [S, K, J, E].
        value: [S, K, J, E'].
        mask: [T, J], added to the scores.
        scoring: how scores become weights; its window is in the mask.

    Returns:
        [S, H, T, E'].
    """
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = (states.repeat_interleave(repeats, dim=1) for states in (key, value))
    if scoring.soft_cap is None:
        return F.scaled_dot_product_attention(
            query, key, value, mask, scoring.dropout, is_causal=mask is None, scale=scoring.scale
        )
    scale = query.shape[-1] ** -0.5 if scoring.scale is None else scoring.scale
    scores = torch.tanh(query @ key.transpose(-1, -2) * scale / scoring.soft_cap) * scoring.soft_cap
    if mask is None:
        above = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(above, -torch.inf)
    else:
        scores = scores + mask
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(-1, dtype=wide).to(value.dtype)
    return F.dropout(weights, scoring.dropout) @ value
