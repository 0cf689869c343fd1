"""Attention over packed trees by FlexAttention, for CUDA.

The ancestor test of the packing is the mask, and whole blocks of 128 × 128 tokens without an
ancestor in them are skipped. Which blocks those are follows from the tree in closed form, so a mask
of [L, L] never exists.

Legend: R rows, L tokens of a row, H heads, K key-value heads, E head size, C blocks of a row.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from lgrpo_lightning.policy.compiling import compiled
from lgrpo_lightning.policy.path_attention import Scoring
from lgrpo_lightning.tree.packing import PackedTrees

# Tokens of a block. Rows for CUDA are filled up to a multiple of it: whole blocks need no tests of
# their bounds, and rows below one block would be taken for decoding, by another kernel.
BLOCK = 128
SMALLEST_HEAD = 16  # what Triton's matrix product takes


class FlexAttention:
    """Attention among the tokens of packed trees, for one pass through a model.

    Args:
        packed: the rows the model runs on; on CUDA their length must be a multiple of a block.

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
        width = query.shape[-1]
        scale = width**-0.5 if scoring.scale is None else scoring.scale
        factor = scale * max(width, SMALLEST_HEAD) ** 0.5  # beyond what the kernel does by itself
        query, key, value = of_one_type(query, key, value)
        if not math.isclose(factor, 1):
            query = query * factor
        states = (widened(query), widened(key), widened(value))
        cap = None
        if scoring.soft_cap is not None:
            cap = torch.full((), scoring.soft_cap, device=query.device)
        # Were the graph broken off, the matrix of all scores would be computed.
        run = compiled(attended_blocks) if query.is_cuda else attended
        # The types are settled; autocast would only be one more thing to compile for.
        with torch.autocast(query.device.type, enabled=False):
            found: Tensor = run(*states, self.masks[scoring.window], cap)
        return found[..., : value.shape[-1]].transpose(1, 2)


def of_one_type(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All three in autocast's type, or else in the values'.

    Rotary embeddings give queries and keys the type of the hidden states, which under autocast is
    wider than that of the values.
    """
    device, dtype = value.device.type, value.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def widened(states: Tensor) -> Tensor:
    """Filled up with zeros to the smallest head there is a kernel for; scores stay as they are."""
    spare = SMALLEST_HEAD - states.shape[-1]
    return F.pad(states, (0, spare)) if spare > 0 else states


def attended(
    query: Tensor, key: Tensor, value: Tensor, block_mask: BlockMask, soft_cap: Tensor | None
) -> Tensor:
    """FlexAttention of [R, H, L, E] under a block mask, scores capped at ``soft_cap``, [].

    Whatever differs from call to call is in tensors: compiled for dynamic shapes, plain numbers
    would become symbols that FlexAttention has no use for.
    """

    def capped(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        assert soft_cap is not None
        return soft_cap * torch.tanh(score / soft_cap)

    found: Tensor = flex_attention(
        query,
        key,
        value,
        score_mod=None if soft_cap is None else capped,
        block_mask=block_mask,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return found


def attended_blocks(query: Tensor, *arguments: Any) -> Tensor:  # noqa: ANN401 - see attended
    """:func:`attended` of whole blocks, as it is compiled: bounds need no tests then."""
    torch._check(query.shape[2] % BLOCK == 0)  # type: ignore[no-untyped-call]
    return attended(query, *arguments)


def tree_block_mask(packed: PackedTrees, window: int | None) -> BlockMask:
    """The ancestor test as a block mask; with a window, only tokens less than that far above.

    A block is skipped when no key's subtree reaches its first query, and needs no test within when
    every key's subtree covers all its queries. Windows are tested token by token.
    """
    ends, positions = packed.ends.int(), packed.positions.int()
    length = ends.shape[1]
    index = torch.arange(length, dtype=torch.int32, device=ends.device)
    ends = torch.where(ends == 0, index + 1, ends)  # padding sees itself: no row is all hidden
    reach = positions + (length if window is None else window)  # the first depth that sees no more

    def is_below(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends[row, key])

    def is_near(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return is_below(row, head, query, key) & (positions[row, query] < reach[row, key])

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
        mask_mod=is_below if window is None else is_near,
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
