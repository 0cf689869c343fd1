"""Sampling B·G rows token by token, each prompt run once.

Rows wait in the order of their prompts. As many as there are slots run at a time; a row that has
ended leaves the batch at once, and when a group's worth of slots is free the next rows start. What
is drawn for a row depends on its number and the seed, not on when it runs or with which others.

Legend: B prompts, G completions of a group, R = B·G rows, T completion tokens at most, P prompt
tokens, n rows running, V vocabulary.
"""

import torch
from torch import Tensor, nn

from lgrpo_lightning.rollout.key_values import KeyValueStore, compacted
from lgrpo_lightning.rollout.passes import TokenPass, prompt_pass
from lgrpo_lightning.rollout.row_layout import RowLayout
from lgrpo_lightning.rollout.shared_attention import (
    SharedPrefixAttention,
    shared_prefix_attention,
)
from lgrpo_lightning.rollout.task import Task


class Decoding:
    """One run through a task; :meth:`run` leaves its results in the attributes.

    Attributes:
        ids: [R, T] long.
        logprobs: [R, T] float32, 0 at padding.
        lengths: [R] long.
        finished: [R] bool.
    """

    def __init__(self, policy: nn.Module, task: Task) -> None:
        self.policy = policy
        self.task = task
        self.token_pass = TokenPass(policy, task.prompt_ids.device)
        self.num_rows = task.num_rows
        shape, device = (self.num_rows, task.max_new_tokens), task.prompt_ids.device
        self.ids = torch.full(shape, task.pad_token, device=device)
        self.logprobs = torch.zeros(shape, dtype=torch.float32, device=device)
        self.lengths = torch.zeros(self.num_rows, dtype=torch.long, device=device)
        self.finished = torch.zeros(self.num_rows, dtype=torch.bool, device=device)
        self.prompts = KeyValueStore(task.max_prompts, task.prompt_ids.shape[1])
        self.completions = KeyValueStore(task.slots, max(task.max_new_tokens - 1, 1))
        self.first_logits: dict[int, Tensor] = {}  # prompt → [V], while rows of it wait
        self.running_prompts: list[int] = []  # in the order of their slots
        self.rows: list[int] = []  # running, in the order of their slots
        self.starts: list[int] = []  # the step of each row's first token
        self.step = 0
        self.next_row = 0
        self.row_numbers = self.ids.new_empty(0)  # [n], the rows as a tensor
        self.tokens = self.ids.new_empty(0)  # [n], drawn last
        self.drawn = self.ids.new_empty(0)  # [n], how many have been drawn
        self.positions = self.ids.new_empty(0)  # [n], of the next tokens to be drawn
        self.prompt_lengths = task.prompt_mask.sum(-1)  # [B]
        self.layout: RowLayout | None = None  # None after a row or a prompt has come or gone

    def run(self) -> None:
        """Sample all rows."""
        while self.next_row < self.num_rows or self.rows:
            self._admit()
            with shared_prefix_attention(self.policy):
                while self.rows and not self._due():
                    self._step()

    def _due(self) -> bool:
        """Whether there are free slots for the next group, or for all rows that wait."""
        free = self.task.slots - len(self.rows)
        waiting = self.num_rows - self.next_row
        run_already = self.next_row % self.task.group_size > 0
        fits = run_already or len(self.running_prompts) < self.task.max_prompts
        return fits and 0 < min(self.task.group_size, self.task.slots, waiting) <= free

    def _admit(self) -> None:
        """Start as many waiting rows as there are free slots."""
        free = self.task.slots - len(self.rows)
        waiting = self.num_rows - self.next_row
        new_rows: list[int] = []
        new_prompts: list[int] = []
        for row in range(self.next_row, self.next_row + min(free, waiting)):
            prompt = row // self.task.group_size
            if prompt not in self.running_prompts and prompt not in new_prompts:
                if len(self.running_prompts) + len(new_prompts) == self.task.max_prompts:
                    break
                new_prompts.append(prompt)
            new_rows.append(row)
        self.next_row += len(new_rows)
        if new_prompts:
            self._run_prompts(new_prompts)
        self._start(new_rows)

    def _run_prompts(self, prompts: list[int]) -> None:
        """Run prompts, keep their keys and values, and the logits of their first tokens."""
        states, logits = prompt_pass(
            self.policy, self.task.prompt_ids[prompts], self.task.prompt_mask[prompts]
        )
        for layer, (keys, values) in enumerate(states):
            self.prompts.fill(layer, len(self.running_prompts), keys, values)
        self.running_prompts += prompts
        self.first_logits.update(zip(prompts, logits, strict=True))

    def _start(self, rows: list[int]) -> None:
        """Draw the first tokens of rows whose prompts have been run."""
        prompts = [row // self.task.group_size for row in rows]
        logits = torch.stack([self.first_logits[prompt] for prompt in prompts])
        waiting = self.next_row // self.task.group_size
        self.first_logits = {p: held for p, held in self.first_logits.items() if p >= waiting}
        before = len(self.rows)
        self.rows += rows
        self.starts += [self.step] * len(rows)
        self.row_numbers = torch.tensor(self.rows, device=self.ids.device)
        self.drawn = torch.cat([self.drawn, self.drawn.new_zeros(len(rows))])
        self.tokens = torch.cat([self.tokens, self.tokens.new_zeros(len(rows))])
        self.positions = torch.cat([self.positions, self.prompt_lengths[prompts]])
        self.layout = None
        self._draw(logits, before)

    def _step(self) -> None:
        """Run the newest token of each row and draw the next."""
        first, last = min(self.starts), max(self.starts)
        attention = SharedPrefixAttention(
            self.prompts,
            self.completions,
            self._layout(),
            self.step - first if first == last else self.drawn - 1,
            self.step - first + 1,
        )
        logits = self.token_pass(self.tokens, self.positions - 1, attention)
        self.step += 1
        self._draw(logits, 0)

    def _draw(self, logits: Tensor, first: int) -> None:
        """Draw the next tokens of all slots from one on, and let rows that have ended go."""
        rows, at = self.row_numbers[first:], self.drawn[first:]
        tokens, logprobs = self.task.distribution.draw(logits, self.task.noise[rows, at])
        self.ids[rows, at] = tokens
        self.logprobs[rows, at] = logprobs.float()
        lengths = at + 1
        self.tokens[first:] = tokens
        self.drawn[first:] = lengths
        self.positions[first:] += 1
        ended = self.task.endings.ended(tokens, self.ids, rows, lengths)
        done = ended | (lengths == self.task.max_new_tokens)
        if not bool(done.any()):
            return
        self.lengths[rows[done]] = lengths[done]
        self.finished[rows[done]] = ended[done]
        self._remove([first + slot for slot in done.nonzero().flatten().tolist()])

    def _remove(self, slots: list[int]) -> None:
        """Free slots, and those of prompts none of whose rows runs or waits."""
        order = compacted(len(self.rows), slots)
        self.completions.move(order, self.step - min(self.starts))
        self.rows = [self.rows[slot] for slot in order]
        self.starts = [self.starts[slot] for slot in order]
        kept = torch.tensor(order, dtype=torch.long, device=self.ids.device)
        self.row_numbers, self.tokens, self.drawn, self.positions = (
            values[kept] for values in (self.row_numbers, self.tokens, self.drawn, self.positions)
        )
        self.layout = None
        needed = {row // self.task.group_size for row in self.rows}
        if self.next_row % self.task.group_size:
            needed.add(self.next_row // self.task.group_size)
        gone = [slot for slot, prompt in enumerate(self.running_prompts) if prompt not in needed]
        order = compacted(len(self.running_prompts), gone)
        self.prompts.move(order, self.prompts.length)
        self.running_prompts = [self.running_prompts[slot] for slot in order]

    def _layout(self) -> RowLayout:
        """The layout of the rows and prompts in their slots."""
        if self.layout is not None:
            return self.layout
        slots = {prompt: slot for slot, prompt in enumerate(self.running_prompts)}
        self.layout = RowLayout(
            [slots[row // self.task.group_size] for row in self.rows],
            len(slots),
            ~self.task.prompt_mask[self.running_prompts],
        )
        return self.layout
