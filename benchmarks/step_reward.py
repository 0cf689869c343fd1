"""A reward for benchmarks/step.py: cheap, and different within a group."""

from typing import Any


def token_sum(completion_ids: list[list[int]], **columns: Any) -> list[float]:  # noqa: ANN401
    """The sum of the token ids, modulo 7."""
    return [float(sum(ids) % 7) for ids in completion_ids]
