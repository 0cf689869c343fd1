"""Attention over packed trees by FlexAttention, for CUDA.

The ancestor test of the packing is the mask, and whole blocks of 128 × 128 tokens without an
ancestor in them are skipped. Which blocks those are follows from the tree in closed form, so a mask
of [L, L] never exists.

Legend: R rows, L tokens of a row, H heads, K key-value heads, E head size, C blocks of a row.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from lgrpo_lightning.policy.path_attention import Scoring
from lgrpo_lightning.tree.packing import PackedTrees

BLOCK = 128


class FlexAttention:
    """Attention among the tokens of packed trees, for one pass through a model.

    Args:
        packed: the rows the model runs on.

    Attributes:
        calls: how often it was called.
    """

    def __init__(self, packed: PackedTrees) -> None:
        self.packed = packed
        self.calls = 0
        self.masks: dict[int | None, BlockMask] = {}

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Every token attends to itself and to those above it.

        See :meth:`PathAttention.attend`.

        Raises:
            ValueError: if attention is to drop weights, which FlexAttention cannot.
        """
        self.calls += 1
        if scoring.dropout > 0:
            raise ValueError(
                f"FlexAttention has no dropout, got {scoring.dropout}; set disable_dropout: true, "
                "or use engine: padded"
            )
        if scoring.window not in self.masks:
            self.masks[scoring.window] = tree_block_mask(self.packed, scoring.window)
        soft_cap = scoring.soft_cap
        attended = compiled(query.is_cuda)(
            query,
            key,
            value,
            score_mod=None if soft_cap is None else soft_capping(soft_cap),
            block_mask=self.masks[scoring.window],
            scale=scoring.scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return attended.transpose(1, 2)


def tree_block_mask(packed: PackedTrees, window: int | None) -> BlockMask:
    """The ancestor test as a block mask; with a window, only tokens less than that far above.

    A block is skipped when no key's subtree reaches its first query, and needs no test within when
    every key's subtree covers all its queries. Windows are tested token by token.
    """
    ends, positions = packed.ends, packed.positions
    length = ends.shape[1]

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        ancestor = (key <= query) & (query < ends[row, key])
        if window is None:
            return ancestor
        return ancestor & (positions[row, query] - positions[row, key] < window)

    count = -(-length // BLOCK)
    firsts = torch.arange(count, device=ends.device) * BLOCK
    lasts = (firsts + BLOCK - 1).clamp(max=length - 1)
    spare = count * BLOCK - length
    by_block = F.pad(ends, (0, spare)).view(-1, 1, count, BLOCK)
    furthest, nearest = by_block.amax(-1), by_block.amin(-1)
    query_first, query_last = firsts.view(1, -1, 1), lasts.view(1, -1, 1)
    some = (firsts <= query_last) & (furthest > query_first)  # [R, C queries, C keys]
    every = (lasts < query_first) & (nearest > query_last)
    if window is not None:
        every = torch.zeros_like(every)
    partial = some & ~every
    counts, indices = listed(partial)
    full_counts, full_indices = listed(every)
    return BlockMask.from_kv_blocks(
        counts,
        indices,
        full_counts,
        full_indices,
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(length, length),
    )


def listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries has, and which, those it has first.

    Args:
        blocks: [R, C, C] bool.

    Returns:
        [R, 1, C] and [R, 1, C, C], int32.
    """
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1).int().unsqueeze(1), order.int().unsqueeze(1)


@lru_cache
def soft_capping(cap: float) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """c·tanh(score/c)."""

    def capped(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return capped


@lru_cache
def compiled(on_cuda: bool) -> Callable[..., Tensor]:
    """FlexAttention, compiled once for all shapes where there is something to gain."""
    attention: Callable[..., Tensor] = flex_attention
    return torch.compile(attention, dynamic=True) if on_cuda else attention
