"""Sampling B·G rows in slots, several tokens at a time without looking at them.

The CPU starts rows, has all slots in use advance by :data:`STRIDE` tokens, and only then looks
which rows have ended: on a GPU it would otherwise wait for every token. What an ended row draws
until then goes nowhere. Waiting rows start when a group's worth of slots is free; when no row waits
and half of the slots in use would do, the rows move together.

Legend: B prompts, G completions of a group, R = B·G rows, S slots, n slots in use, T completion
tokens at most.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lgrpo_lightning.rollout.passes import prompt_pass
from lgrpo_lightning.rollout.shared_attention import shared_prefix_attention
from lgrpo_lightning.rollout.slots import Slots
from lgrpo_lightning.rollout.task import Task

STRIDE = 8  # tokens; a straggler's slot idles for half of them on average
FEWEST_SLOTS = 8  # below, a step takes as long with fewer
SHORTEST_SPAN = 64  # tokens; likewise

Step = Callable[[int, int], None]


class SlotDecoding:
    """One run through a task; :meth:`run` leaves its results in the slots.

    Args:
        policy: the model.
        task: what is to be sampled.
        slots: memory for it.
        step: advances the first n slots by a token, reading a span of places of completions.
    """

    def __init__(self, policy: nn.Module, task: Task, slots: Slots, step: Step) -> None:
        self.policy = policy
        self.task = task
        self.slots = slots
        self.step = step
        self.next_row = 0
        self.rows: list[int | None] = [None] * task.slots  # by slot
        self.drawn = [0] * task.slots  # tokens of the row in each slot, ended ones included
        self.count = task.slots  # n
        self.prompt_slots: dict[int, int] = {}  # of prompts with rows that run or wait
        self.first_logits: dict[int, Tensor] = {}  # prompt → [V], while rows of it wait

    def run(self) -> None:
        """Sample all rows."""
        self.slots.start(self.task)
        while self.next_row < self.task.num_rows or self._running():
            if self._due():
                self._admit()
            else:
                self._shrink()
            self._advance()
            self._retire()

    def _running(self) -> list[int]:
        """Slots with rows."""
        return [slot for slot, row in enumerate(self.rows) if row is not None]

    def _due(self) -> bool:
        """Whether there are free slots for the next group, or for all rows that wait."""
        free = self.rows.count(None)
        waiting = self.task.num_rows - self.next_row
        run_already = self.next_row % self.task.group_size > 0
        fits = run_already or len(self.prompt_slots) < self.task.max_prompts
        return fits and 0 < min(self.task.group_size, self.task.slots, waiting) <= free

    def _admit(self) -> None:
        """Start as many waiting rows as there are free slots."""
        free = [slot for slot, row in enumerate(self.rows) if row is None]
        rows: list[int] = []
        new_prompts: list[int] = []
        for row in range(self.next_row, min(self.next_row + len(free), self.task.num_rows)):
            prompt = row // self.task.group_size
            if prompt not in self.prompt_slots and prompt not in new_prompts:
                if len(self.prompt_slots) + len(new_prompts) == self.task.max_prompts:
                    break
                new_prompts.append(prompt)
            rows.append(row)
        self.next_row += len(rows)
        if new_prompts:
            self._run_prompts(new_prompts)
        for slot, row in zip(free, rows, strict=False):
            self.rows[slot], self.drawn[slot] = row, 1
        prompts = [row // self.task.group_size for row in rows]
        self.slots.occupy(
            self._tensor(free[: len(rows)]),
            self._tensor(rows),
            self.task.prompt_mask[prompts].sum(-1),
            torch.stack([self.first_logits[prompt] for prompt in prompts]),
        )
        waiting = self.next_row // self.task.group_size
        self.first_logits = {p: held for p, held in self.first_logits.items() if p >= waiting}
        self._arrange()

    def _run_prompts(self, prompts: list[int]) -> None:
        """Run prompts, keep their keys and values, and the logits of their first tokens."""
        mask = self.task.prompt_mask[prompts]
        states, logits = prompt_pass(self.policy, self.task.prompt_ids[prompts], mask)
        taken = set(self.prompt_slots.values())
        free = [slot for slot in range(self.task.max_prompts) if slot not in taken]
        free = free[: len(prompts)]
        self.slots.hold(self._tensor(free), states, ~mask)
        self.prompt_slots.update(zip(prompts, free, strict=True))
        self.first_logits.update(zip(prompts, logits, strict=True))

    def _advance(self) -> None:
        """Draw the next tokens of all slots in use, as many as the longest-lived row may need."""
        drawn = [self.drawn[slot] for slot in self._running()]
        strides = min(STRIDE, self.task.max_new_tokens - min(drawn))
        with shared_prefix_attention(self.policy):
            for stride in range(strides):
                longest = min(max(drawn) + stride, self.task.max_new_tokens - 1)
                self.step(self.count, self._span(longest))
        self.drawn = [drawn + strides for drawn in self.drawn]

    def _span(self, longest: int) -> int:
        """A power of two of places that holds so many tokens, or all places."""
        span = SHORTEST_SPAN
        while span < longest:
            span *= 2
        return min(span, self.slots.completions.length)

    def _retire(self) -> None:
        """Free the slots of rows that have ended, and of prompts whose rows all have."""
        done = self.slots.done[: self.count].tolist()
        for slot in self._running():
            if done[slot]:
                self.rows[slot] = None
        needed = {row // self.task.group_size for row in self.rows if row is not None}
        if self.next_row % self.task.group_size:
            needed.add(self.next_row // self.task.group_size)
        self.prompt_slots = {p: slot for p, slot in self.prompt_slots.items() if p in needed}

    def _shrink(self) -> None:
        """Use fewer slots, by halves, if that is enough for all rows that are left."""
        running = self._running()
        count = self.count
        while count > FEWEST_SLOTS and len(running) <= -(-count // 2):
            count = -(-count // 2)
        if self.next_row < self.task.num_rows or count == self.count or not running:
            return
        free = [slot for slot in range(count) if self.rows[slot] is None]
        moved = [slot for slot in running if slot >= count]
        if moved:
            free = free[: len(moved)]
            length = min(max(self.drawn[slot] for slot in moved), self.slots.completions.length)
            self.slots.move(self._tensor(free), self._tensor(moved), length)
        for slot, source in zip(free, moved, strict=False):
            self.rows[slot], self.drawn[slot] = self.rows[source], self.drawn[source]
            self.rows[source] = None
        self.count = count
        self._arrange()

    def _arrange(self) -> None:
        """Have the slots in use read the prompts of their rows."""
        self.slots.arrange(
            self.count,
            [
                None if row is None else self.prompt_slots[row // self.task.group_size]
                for row in self.rows[: self.count]
            ],
        )

    def _tensor(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.task.prompt_ids.device)
