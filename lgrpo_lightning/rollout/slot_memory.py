"""Slots, and the graphs that belong to them, kept from rollout to rollout."""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from lgrpo_lightning.policy.placement import placement
from lgrpo_lightning.rollout.cuda_graphs import StepGraphs
from lgrpo_lightning.rollout.slot_decoding import SlotDecoding
from lgrpo_lightning.rollout.slots import Slots
from lgrpo_lightning.rollout.task import Task

PROMPT_UNIT = 128  # tokens; memory is for a multiple of them, so that similar prompts share it
KEPT_SHARE = 1 / 16  # of the device's memory


@dataclass(frozen=True, eq=False)
class _Kept:
    """Slots with their graphs, and the policy they were captured of."""

    slots: Slots
    graphs: StepGraphs
    policy: Hashable

    @property
    def num_bytes(self) -> int:
        return self.slots.num_bytes + self.graphs.num_bytes


class SlotMemory:
    """Runs tasks in slots; by CUDA graphs, these and their slots are kept for the next task.

    What is kept takes at most :data:`KEPT_SHARE` of the device's memory while nothing is sampled.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, _Kept] = {}  # the most recently used last

    def run(self, policy: nn.Module, task: Task, settings: Hashable, captured: bool) -> Slots:
        """Sample all rows of a task.

        Args:
            policy: the model.
            task: what is to be sampled.
            settings: equal only for tasks with the same distribution and endings.
            captured: by CUDA graphs; else step by step, in new slots.

        Returns:
            The slots with the results, which the next task overwrites.
        """
        length = -(-task.prompt_ids.shape[1] // PROMPT_UNIT) * PROMPT_UNIT
        if not captured:
            slots = Slots(task, task.max_prompts, length)
            with torch.inference_mode():
                SlotDecoding(policy, task, slots, partial(slots.step, policy)).run()
            return slots
        shape = (task.num_rows, task.slots, task.group_size, task.max_new_tokens)
        key = (settings, shape, task.prompt_ids.device)
        kept = self._kept.pop(key, None)
        state = placement(policy)
        fits = (
            kept is not None
            and kept.graphs.policy() is policy
            and kept.policy == state
            and kept.slots.prompts.length >= length
        )
        if kept is None or not fits:
            del kept  # before memory for new ones is allocated
            slots = Slots(task, task.max_prompts, length)
            kept = _Kept(slots, StepGraphs(policy, slots), state)
        with torch.inference_mode():
            SlotDecoding(policy, task, kept.slots, kept.graphs).run()
        self._kept[key] = kept
        self._forget(task.prompt_ids.device)
        return kept.slots

    def _forget(self, device: torch.device) -> None:
        """Drop what was used longest ago until the rest is small enough to be kept."""
        limit = KEPT_SHARE * torch.cuda.get_device_properties(device).total_memory
        while sum(kept.num_bytes for kept in self._kept.values()) > limit:
            del self._kept[next(iter(self._kept))]
