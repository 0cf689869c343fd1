"""Attention of many rows to the prompt they share and, each, to its own completion.

    o = Σ_k softmax(q·k) v  over prompt and completion
      = w·o_prompt + Σ_k p_k v  over the completion,    (p, w) = softmax(q·k …, lse_prompt)

with the prompt's own attention o_prompt and the logarithm lse_prompt of its normaliser: to a row,
its prompt is one more key. So the queries of a group meet the prompt's keys in one matrix product,
and neither keys nor values of a prompt are ever copied to its rows. Source of the decomposition:
Juravsky et al., "Hydragen", arXiv 2402.05099, Section 3.1.

Legend: n rows in use, q prompts in use, m rows of a prompt at most, P prompt tokens, H heads, K
key-value heads, E head size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from lgrpo_lightning.policy.support import causal_lm
from lgrpo_lightning.rollout.key_values import KeyValueStore
from lgrpo_lightning.rollout.row_layout import RowLayout, no_entry

IMPLEMENTATION = "shared_prefix"
ARGUMENT = "shared_prefix"
FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class SharedPrefixAttention:
    """The attention of one decoding pass: every row has one new token.

    Args:
        prompts: keys and values of the prompts in use.
        completions: keys and values of the rows in use; the new tokens' are added.
        layout: which row belongs to which prompt.
        places: [n] long, where the new token stands in its completion; a number where it is the
            same in all rows.
        span: the largest place, plus one.

    Attributes:
        calls: how often it was called.
    """

    def __init__(
        self,
        prompts: KeyValueStore,
        completions: KeyValueStore,
        layout: RowLayout,
        places: Tensor | int,
        span: int,
    ) -> None:
        self.prompts = prompts
        self.completions = completions
        self.layout = layout
        self.places = places
        self.span = span
        self.bias: Tensor | None = None  # [n, 1, 1, span]
        if not isinstance(places, int):
            self.bias = no_entry(torch.arange(span, device=places.device) > places.unsqueeze(1))
        self._places: dict[int, Tensor] = {}  # of the new tokens in memory, by number of heads
        self.calls = 0

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None
    ) -> Tensor:
        """[n, H, 1, E] queries, [n, K, 1, E] keys and values, to [n, 1, H, E']."""
        self.calls += 1
        rows, heads, _, size = query.shape
        self.completions.append(layer, self._places_of(key.shape[1]), key, value)
        keys = self.completions.keys[layer][:rows, :, : self.span]
        values = self.completions.values[layer][:rows, :, : self.span]
        if scale is None:
            scale = size**-0.5
        grouped = query.to(keys.dtype).view(rows, key.shape[1], -1, size)
        prompt, normaliser = self._attend_to_prompts(layer, grouped, scale)
        scores = _scores(grouped * scale, keys, self.bias)
        shares = torch.cat([scores, normaliser], dim=-1).softmax(-1)
        attended = shares[..., :-1].to(values.dtype) @ values
        merged = torch.addcmul(attended.to(shares.dtype), shares[..., -1:], prompt)
        return merged.to(query.dtype).reshape(rows, 1, heads, -1)

    def _places_of(self, heads: int) -> Tensor | int:
        """Where the new tokens' states go, see :meth:`KeyValueStore.append`."""
        if isinstance(self.places, int):
            return self.places
        if heads not in self._places:
            self._places[heads] = self.completions.flat_places(self.places, heads)
        return self._places[heads]

    def _attend_to_prompts(self, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Outputs [n, K, r, E'] and log-normalisers [n, K, r, 1] of queries [n, K, r, E]."""
        keys = self.prompts.keys[layer][: self.layout.num_prompts]
        values = self.prompts.values[layer][: self.layout.num_prompts]
        spread = self.layout.spread(query)  # [q, K, m·r, E]
        bias = self.layout.prompt_bias
        if _is_fused(spread, values):
            attended, normaliser = FUSED(spread, keys, values, attn_mask=bias, scale=scale)
            return self.layout.collect(attended), self.layout.collect(normaliser.unsqueeze(-1))
        scores = _scores(spread * scale, keys, bias)
        top = scores.amax(-1, keepdim=True)
        shares = scores.sub_(top).exp_()
        total = shares.sum(-1, keepdim=True)
        attended = shares.to(values.dtype) @ values
        both = self.layout.collect(torch.cat([attended / total, top + total.log()], dim=-1))
        return both[..., :-1], both[..., -1:]


def _is_fused(query: Tensor, values: Tensor) -> bool:
    """Whether torch has the attention in one operation that gives the normalisers, too."""
    same = query.shape[-1] == values.shape[-1]
    return query.device.type == "cpu" and query.dtype == torch.float32 and same


def _scores(query: Tensor, keys: Tensor, bias: Tensor | None) -> Tensor:
    """Biased products, in float32 or wider."""
    scores = query @ keys.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return scores if bias is None else scores.add_(bias)


def shared_prefix_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,  # noqa: ANN401 - whatever the model hands to its attention functions
) -> tuple[Tensor, None]:
    """The function behind :data:`IMPLEMENTATION`, as transformers calls it."""
    attention: SharedPrefixAttention = kwargs[ARGUMENT]
    layer: Any = module.layer_idx
    return attention.attend(layer, query, key, value, scaling), None


AttentionInterface.register(IMPLEMENTATION, shared_prefix_forward)


@contextmanager
def shared_prefix_attention(policy: nn.Module) -> Iterator[None]:
    """While open, the policy's attention is the one registered here."""
    config: Any = causal_lm(policy).config
    original = config._attn_implementation
    config._attn_implementation = IMPLEMENTATION
    try:
        yield
    finally:
        config._attn_implementation = original
