"""What the loader deals: a batch of prompts with the columns their rewards need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, str]
Prompt: TypeAlias = str | list[Message]


# Not frozen, although nobody changes it: Lightning rebuilds every batch field by field, to move it
# to the device and again for precision "bf16-true" or FSDP, and refuses a frozen dataclass.
@dataclass
class PromptBatch:
    """The prompts of one rollout (or of one evaluation batch) on one rank.

    A training rollout is dealt ``steps`` times in a row, with the same prompts and
    ``step = 0 … steps - 1``: once for each micro-batch that is made of it.

    Attributes:
        prompts: B prompts: plain strings, or lists of role messages.
        columns: Every other column of the data set, by name, each of length B. They are passed to
            the reward functions; None where a data set lacks the column.
        sources: B names of the data set that each prompt came from.
        indices: B row numbers in that data set, counted from 0.
        epoch: Epoch that the rollout belongs to.
        rollout: Index of the rollout within the epoch, the same on all ranks.
        step: Which training step of the rollout this is: 0 … steps - 1.
        steps: Training steps of this rollout (micro-batches × ``num_iterations``).
    """

    prompts: list[Prompt]
    columns: dict[str, list[Any]]
    sources: list[str]
    indices: list[int]
    epoch: int = 0
    rollout: int = 0
    step: int = 0
    steps: int = 1

    def to(self, device: object, **_: object) -> PromptBatch:
        """Return the batch as it is: text has no device. Lightning asks every batch to move."""
        return self
