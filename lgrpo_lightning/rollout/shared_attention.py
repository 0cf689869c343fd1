"""Attention of many rows to the prompt they share and, each, to its own completion.

    o = Σ_k softmax(q·k) v  over prompt and completion
      = w·o_prompt + (1 - w)·o_completion,    w = σ(lse_prompt - lse_completion)

with each part's own softmax and the logarithm lse of its normaliser. So the queries of a group meet
the prompt's keys in one matrix product, and neither is ever copied to the group's rows. Source of
the decomposition: Juravsky et al., "Hydragen", arXiv 2402.05099, Section 3.1.

Legend: n rows in use, q prompts in use, m rows of a prompt at most, P prompt tokens, H heads, K
key-value heads, E head size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from lgrpo_lightning.policy.support import causal_lm
from lgrpo_lightning.rollout.key_values import KeyValueStore

IMPLEMENTATION = "shared_prefix"
ARGUMENT = "shared_prefix"


@dataclass(frozen=True, eq=False)
class RowLayout:
    """Which row belongs to which prompt, as the matrix products need it.

    Attributes:
        prompts: q.
        width: m.
        places: [n] long, prompt·m + number among the prompt's rows.
        prompt_bias: [q, 1, 1, P], -inf at padding; None without any.
    """

    prompts: int
    width: int
    places: Tensor
    prompt_bias: Tensor | None

    def spread(self, states: Tensor) -> Tensor:
        """Rows [n, K, r, E] to prompts [q, K, m·r, E], with zeros where there is no row."""
        heads, group, size = states.shape[1:]
        spread = states.new_zeros(self.prompts * self.width, heads, group, size)
        spread[self.places] = states
        return (
            spread.view(self.prompts, self.width, heads, group, size).transpose(1, 2).flatten(2, 3)
        )

    def collect(self, states: Tensor) -> Tensor:
        """The inverse of :meth:`spread`."""
        prompts, heads, _, size = states.shape
        by_prompt = states.view(prompts, heads, self.width, -1, size)
        return by_prompt.transpose(1, 2).flatten(0, 1)[self.places]


def no_entry(mask: Tensor) -> Tensor:
    """-inf where the mask is True, else 0, for all heads and queries: [a, b] to [a, 1, 1, b]."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(mask, -torch.inf)[:, None, None]


class SharedPrefixAttention:
    """The attention of one decoding pass: every row has one new token.

    Args:
        prompts: keys and values of the prompts in use.
        completions: keys and values of the rows in use; the new tokens' are added.
        layout: which row belongs to which prompt.
        drawn: [n] long, tokens of each row that have been run before this pass.
        span: the largest of ``drawn``, plus one.

    Attributes:
        calls: how often it was called.
    """

    def __init__(
        self,
        prompts: KeyValueStore,
        completions: KeyValueStore,
        layout: RowLayout,
        drawn: Tensor,
        span: int,
    ) -> None:
        self.prompts = prompts
        self.completions = completions
        self.layout = layout
        self.drawn = drawn
        self.span = span
        later = torch.arange(span, device=drawn.device) > drawn.unsqueeze(1)
        self.bias = no_entry(later)  # [n, 1, 1, span]
        self.calls = 0

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None
    ) -> Tensor:
        """[n, H, 1, E] queries, [n, K, 1, E] keys and values, to [n, 1, H, E']."""
        self.calls += 1
        rows, heads, _, size = query.shape
        self.completions.append(layer, self.drawn, key, value)
        scaled = query * (size**-0.5 if scale is None else scale)
        grouped = scaled.view(rows, key.shape[1], -1, size)
        layout = self.layout
        shared = layout.collect(
            _attend(
                layout.spread(grouped),
                self.prompts.keys[layer][: layout.prompts],
                self.prompts.values[layer][: layout.prompts],
                layout.prompt_bias,
            )
        )
        own = _attend(
            grouped,
            self.completions.keys[layer][:rows, :, : self.span],
            self.completions.values[layer][:rows, :, : self.span],
            self.bias,
        )
        weight = torch.sigmoid(shared[..., -1:] - own[..., -1:])
        merged = torch.lerp(own[..., :-1], shared[..., :-1], weight)
        return merged.to(query.dtype).reshape(rows, 1, heads, -1)


def _attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Outputs and, as a last column, log-normalisers, in float32 or wider: [..., E' + 1]."""
    scores = query.to(keys.dtype) @ keys.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if bias is not None:
        scores = scores.add_(bias)
    top = scores.amax(-1, keepdim=True)
    shares = scores.sub_(top).exp_()
    total = shares.sum(-1, keepdim=True)
    attended = (shares.to(values.dtype) @ values).to(shares.dtype)
    return torch.cat([attended / total, top + total.log()], dim=-1)


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
