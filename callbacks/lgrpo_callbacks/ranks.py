"""What the processes of a run tell each other."""

from typing import Any

import torch
from lightning.pytorch import Trainer


def gather_objects(trainer: Trainer, item: object) -> list[Any]:
    """Return every rank's item, in rank order, on every rank. A collective; for small items."""
    if trainer.world_size == 1:
        return [item]
    items: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(items, item)
    return items


def gather_objects_to_first(trainer: Trainer, item: object) -> list[Any]:
    """Return every rank's item, in rank order, on rank 0 and an empty list elsewhere.

    A collective, for what is too large to be sent to everyone.
    """
    if trainer.world_size == 1:
        return [item]
    items: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
    torch.distributed.gather_object(item, items)
    return items or []


def data_rank(trainer: Trainer) -> int:
    """Return which share of the data this rank sees.

    It differs from the global rank where several ranks work on the same data (tensor parallelism).
    """
    sampler = trainer.distributed_sampler_kwargs
    return int(sampler["rank"]) if sampler else trainer.global_rank


def sees_own_data(trainer: Trainer) -> bool:
    """Return whether no lower rank sees the same data as this one. A collective."""
    ranks = gather_objects(trainer, data_rank(trainer))
    return ranks.index(ranks[trainer.global_rank]) == trainer.global_rank
