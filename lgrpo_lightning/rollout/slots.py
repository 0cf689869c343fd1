"""Rows in a fixed number of slots, all of whose state is on the device at addresses that stay.

A step runs the newest token of the first n slots and draws the next, whatever has ended: a row that
has draws on, into a row of the results that nobody reads, until its slot is used for another. So a
step is the same operations on the same memory every time, and nothing in it waits for the CPU: it
can be captured as a CUDA graph.

Legend: S slots, n slots in use, B prompts, Q prompt slots, P prompt tokens, R rows, T completion
tokens at most, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lgrpo_lightning.rollout.key_values import KeyValueStore
from lgrpo_lightning.rollout.passes import TokenPass
from lgrpo_lightning.rollout.row_layout import FixedLayout
from lgrpo_lightning.rollout.shared_attention import SharedPrefixAttention
from lgrpo_lightning.rollout.task import Task


class Slots:
    """Memory for a task; it can be used again for tasks of the same shape and settings.

    Args:
        task: its slots and settings; its prompts and noise are taken by :meth:`start`.
        prompt_slots: Q.
        prompt_length: P, at least that of the task.

    Attributes:
        ids: [R + 1, T] long, the completions and, last, what nobody reads.
        logprobs: [R + 1, T] float32.
        lengths: [R + 1] long.
        finished: [R + 1] bool.
        done: [S] bool, slots whose row has ended, or that have none.
    """

    def __init__(self, task: Task, prompt_slots: int, prompt_length: int) -> None:
        device, rows, length = task.prompt_ids.device, task.num_rows, task.max_new_tokens
        self.task = task
        self.nobody = rows
        self.prompts = KeyValueStore(prompt_slots, prompt_length)
        self.completions = KeyValueStore(task.slots, max(length - 1, 1))
        self.ids = torch.zeros(rows + 1, length, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(rows + 1, length, device=device)
        self.lengths = torch.zeros(rows + 1, dtype=torch.long, device=device)
        self.finished = torch.zeros(rows + 1, dtype=torch.bool, device=device)
        self.noise = torch.zeros(rows + 1, length, 2, device=device)
        self.prompt_bias = torch.zeros(prompt_slots, 1, 1, prompt_length, device=device)
        self.done = torch.ones(task.slots, dtype=torch.bool, device=device)
        self.rows = torch.full((task.slots,), rows, device=device)
        self.tokens = torch.zeros_like(self.rows)  # drawn last
        self.drawn = torch.ones_like(self.rows)  # how many have been drawn
        self.prompt_lengths = torch.zeros_like(self.rows)  # of the rows' prompts
        self._layouts: dict[int, FixedLayout] = {}

    @property
    def num_bytes(self) -> int:
        """Memory of keys and values."""
        stored = (*self.prompts.keys, *self.prompts.values)
        stored += (*self.completions.keys, *self.completions.values)
        return sum(tensor.nbytes for tensor in stored)

    def start(self, task: Task) -> None:
        """Forget all rows, and take the noise of a task."""
        self.ids.fill_(task.pad_token)
        self.logprobs.zero_()
        self.noise[:-1] = task.noise
        self.done.fill_(True)
        self.rows.fill_(self.nobody)
        self.prompt_bias.zero_()
        self.prompts.clear()  # a NaN would spread also from where no token is
        self.completions.clear()

    def hold(self, slots: Tensor, states: Sequence[tuple[Tensor, Tensor]], padding: Tensor) -> None:
        """Keep what the prompt pass gave for some prompts.

        Args:
            slots: [q] long, where.
            states: keys and values [q, K, p, E] of every layer, p ≤ P.
            padding: [q, p] bool, True where there is no token.
        """
        for layer, (keys, values) in enumerate(states):
            self.prompts.put(layer, slots, keys, values)
            self.completions.ensure(layer, keys, values)
        absent = torch.ones(len(slots), self.prompts.length, dtype=torch.bool, device=slots.device)
        absent[:, : padding.shape[1]] = padding
        self.prompt_bias[slots, 0, 0] = absent.float().masked_fill_(absent, -torch.inf)

    def occupy(self, slots: Tensor, rows: Tensor, prompt_lengths: Tensor, logits: Tensor) -> None:
        """Start rows in slots, with their first tokens: [k], [k], [k] and [k, V]."""
        self.rows[slots] = rows
        self.prompt_lengths[slots] = prompt_lengths
        self.drawn[slots] = 0
        self.done[slots] = False
        self._draw(logits, slots)

    def move(self, slots: Tensor, sources: Tensor, length: int) -> None:
        """Move rows with their first ``length`` keys and values to other slots."""
        for state in (self.rows, self.tokens, self.drawn, self.done, self.prompt_lengths):
            state[slots] = state[sources]
        self.done[sources] = True
        self.completions.copy(slots, sources, length)

    def arrange(self, count: int, prompts: Sequence[int | None]) -> None:
        """Note which prompt slot each of the first n slots reads; None for a slot not in use."""
        if count not in self._layouts:
            width = min(self.task.group_size, count)
            heads = self.prompts.keys[0].shape[1]
            self._layouts[count] = FixedLayout(count, width, heads, self.prompt_bias)
        self._layouts[count].assign(prompts)

    def step(self, policy: nn.Module, count: int, span: int) -> None:
        """Run the newest token of the first n slots, and draw the next.

        Args:
            policy: the model, its attention replaced.
            count: n.
            span: how many places of completions are read, those of these tokens included.
        """
        places = (self.drawn[:count] - 1).clamp(max=span - 1)
        positions = self.prompt_lengths[:count] + places
        attention = SharedPrefixAttention(
            self.prompts, self.completions, self._layouts[count], places, span
        )
        kind = places.device.type
        # Casts kept from an earlier step would hide later updates of the weights from a graph.
        with torch.autocast(
            kind,
            torch.get_autocast_dtype(kind),
            enabled=torch.is_autocast_enabled(kind),
            cache_enabled=False,
        ):
            run = TokenPass(policy, places.device)
            logits = run(self.tokens[:count], positions, attention)
        self._draw(logits, slice(count))

    def _draw(self, logits: Tensor, slots: slice | Tensor) -> None:
        """Draw the next tokens of slots, and note them unless the row has ended before."""
        done, drawn = self.done[slots], self.drawn[slots]
        at = drawn.clamp(max=self.task.max_new_tokens - 1)
        rows = self.rows[slots].masked_fill(done, self.nobody)
        tokens, logprobs = self.task.distribution.draw(logits, self.noise[rows, at])
        self.ids[rows, at] = tokens
        self.logprobs[rows, at] = logprobs.float()
        lengths = at + 1
        ended = self.task.endings.ended(tokens, self.ids, rows, lengths)
        self.lengths[rows] = lengths
        self.finished[rows] = ended
        self.tokens[slots] = torch.where(done, self.tokens[slots], tokens)
        self.drawn[slots] = torch.where(done, drawn, lengths)
        self.done[slots] = done | ended | (lengths == self.task.max_new_tokens)
