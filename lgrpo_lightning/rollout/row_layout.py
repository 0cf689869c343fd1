"""Which row belongs to which prompt, as the matrix products of a group with its prompt need it.

Legend: n rows, q prompts, m rows of a prompt at most, P prompt tokens, K key-value heads, r query
heads of each, E head size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class RowLayout:
    """The rows and prompts that run, anew whenever one comes or goes.

    Args:
        prompts: [n], the prompt's slot of each row.
        num_prompts: q.
        padding: [q, P] bool, True where a prompt has no token.

    Attributes:
        num_prompts: q.
        width: m.
        prompt_bias: [q, 1, 1, P], -inf at padding; None without any.
    """

    def __init__(self, prompts: Sequence[int], num_prompts: int, padding: Tensor) -> None:
        counts = [0] * num_prompts
        ranks = []
        for prompt in prompts:
            ranks.append(counts[prompt])
            counts[prompt] += 1
        self.num_prompts = num_prompts
        self.width = max(counts)
        self.prompt_bias = no_entry(padding) if bool(padding.any()) else None
        self.slots = torch.tensor(prompts, device=padding.device)  # [n]
        self.ranks = torch.tensor(ranks, device=padding.device)  # [n], among the prompt's rows
        self._moves: dict[int, tuple[Tensor, Tensor]] = {}

    def spread(self, states: Tensor) -> Tensor:
        """Rows [n, K, r, E] to prompts [q, K, m·r, E], with any row where there is none."""
        rows, heads, group, size = states.shape
        there, _ = self._indices(heads)
        by_prompt = states.reshape(rows * heads, -1).index_select(0, there)
        return by_prompt.view(self.num_prompts, heads, self.width * group, size)

    def collect(self, states: Tensor) -> Tensor:
        """The inverse of :meth:`spread`."""
        heads, size = states.shape[1], states.shape[3]
        _, back = self._indices(heads)
        by_row = states.reshape(self.num_prompts * heads * self.width, -1).index_select(0, back)
        return by_row.view(len(self.slots), heads, -1, size)

    def _indices(self, heads: int) -> tuple[Tensor, Tensor]:
        """Where spread finds the heads of the rows and collect those of the prompts."""
        if heads not in self._moves:
            head = torch.arange(heads, device=self.slots.device)
            back = (self.slots.unsqueeze(1) * heads + head) * self.width + self.ranks.unsqueeze(1)
            there = torch.zeros(
                self.num_prompts * heads * self.width, dtype=torch.long, device=back.device
            )
            there[back.flatten()] = torch.arange(back.numel(), device=back.device)
            self._moves[heads] = there, back.flatten()
        return self._moves[heads]


def no_entry(mask: Tensor) -> Tensor:
    """-inf where the mask is True, else 0, for all heads and queries: [a, b] to [a, 1, 1, b]."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(mask, -torch.inf)[:, None, None]


class FixedLayout(RowLayout):
    """A layout for n slots whose indices are overwritten in place when rows come or go.

    Args:
        count: n.
        width: m.
        heads: K.
        prompt_bias: [q, 1, 1, P], kept up to date by its owner.
    """

    def __init__(self, count: int, width: int, heads: int, prompt_bias: Tensor) -> None:
        self.num_prompts = len(prompt_bias)
        self.width = width
        self.prompt_bias = prompt_bias
        self.slots = torch.zeros(count, dtype=torch.long, device=prompt_bias.device)
        self.heads = heads
        self._moves = {
            heads: (
                self.slots.new_zeros(self.num_prompts * heads * width),
                self.slots.new_zeros(count * heads),
            )
        }

    def assign(self, prompts: Sequence[int | None]) -> None:
        """Take the prompt of each slot's row.

        Args:
            prompts: n slots of prompts; None for a slot without a row, which reads anything.
        """
        counts = [0] * self.num_prompts
        there = [0] * (self.num_prompts * self.heads * self.width)
        back = [0] * (len(prompts) * self.heads)
        for slot, prompt in enumerate(prompts):
            if prompt is None:
                continue
            assert counts[prompt] < self.width, (prompts, self.width)
            for head in range(self.heads):
                at = (prompt * self.heads + head) * self.width + counts[prompt]
                there[at] = slot * self.heads + head
                back[slot * self.heads + head] = at
            counts[prompt] += 1
        for indices, values in zip(self._moves[self.heads], (there, back), strict=True):
            indices.copy_(torch.tensor(values))
