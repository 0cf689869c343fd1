"""Penalties for the length of a completion, in tokens."""

import math
from collections.abc import Sequence

from lgrpo_lightning.rewards.completion import Completion, Prompt


def _require_tokens(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a number of tokens ≥ {least}, got {value!r}")


class LengthPenalty:
    """−per_token · (tokens away from the wanted length), at least ``lowest``.

    With ``target_tokens`` both longer and shorter completions are punished, by |n − target|; with
    ``max_tokens`` only longer ones, by max(0, n − max). The first is the length term of L1's
    LCPO-Exact (Aggarwal and Welleck, arXiv 2503.04697), which has no ``lowest``.

    Args:
        target_tokens: the wanted length, in tokens. Give this or ``max_tokens``.
        max_tokens: the length up to which nothing is punished, in tokens.
        per_token: penalty for each token, ≥ 0.
        lowest: the penalty never falls below this (≤ 0).

    Raises:
        ValueError: unless exactly one length is given, or for a value out of its range.
    """

    per_completion = True

    def __init__(
        self,
        target_tokens: int | None = None,
        max_tokens: int | None = None,
        per_token: float = 0.001,
        lowest: float = -1.0,
    ) -> None:
        if (target_tokens is None) == (max_tokens is None):
            raise ValueError(
                "give exactly one of target_tokens and max_tokens, got "
                f"target_tokens={target_tokens!r}, max_tokens={max_tokens!r}"
            )
        if target_tokens is not None:
            _require_tokens("target_tokens", target_tokens, 1)
        if max_tokens is not None:
            _require_tokens("max_tokens", max_tokens, 1)
        if not (math.isfinite(per_token) and per_token >= 0):
            raise ValueError(f"per_token must be finite and ≥ 0, got {per_token!r}")
        if not (math.isfinite(lowest) and lowest <= 0):
            raise ValueError(f"lowest must be finite and ≤ 0, got {lowest!r}")
        self.target_tokens = target_tokens
        self.max_tokens = max_tokens
        self.per_token = per_token
        self.lowest = lowest

    def __call__(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]],
        **columns: object,
    ) -> list[float]:
        """Penalties, in [lowest, 0]; only ``completion_ids`` are looked at."""
        return [
            max(self.lowest, -self.per_token * self._excess(len(ids))) for ids in completion_ids
        ]

    def _excess(self, tokens: int) -> int:
        if self.target_tokens is not None:
            return abs(tokens - self.target_tokens)
        assert self.max_tokens is not None
        return max(0, tokens - self.max_tokens)


class OverlongPenalty:
    """DAPO's soft overlong punishment, for a completion of n tokens.

    0 if n ≤ max − buffer; ((max − buffer) − n) / buffer if max − buffer < n ≤ max; −1 if n > max.
    Source: DAPO, arXiv 2503.14476, Eq. 13 (L_max and L_cache there).

    Args:
        max_tokens: L_max, in tokens.
        buffer_tokens: L_cache, the last tokens before ``max_tokens``, in which the penalty grows
            from 0 to −1. 0 punishes nothing but completions longer than ``max_tokens``.

    Raises:
        ValueError: if max_tokens < 1 or buffer_tokens is not in 0 … max_tokens.
    """

    per_completion = True

    def __init__(self, max_tokens: int, buffer_tokens: int) -> None:
        _require_tokens("max_tokens", max_tokens, 1)
        _require_tokens("buffer_tokens", buffer_tokens, 0)
        if buffer_tokens > max_tokens:
            raise ValueError(
                f"buffer_tokens must not exceed max_tokens={max_tokens}, got {buffer_tokens}"
            )
        self.max_tokens = max_tokens
        self.buffer_tokens = buffer_tokens

    def __call__(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]],
        **columns: object,
    ) -> list[float]:
        """Penalties, in [−1, 0]; only ``completion_ids`` are looked at."""
        return [self._penalty(len(ids)) for ids in completion_ids]

    def _penalty(self, tokens: int) -> float:
        free = self.max_tokens - self.buffer_tokens
        if tokens <= free:
            return 0.0
        if tokens > self.max_tokens:
            return -1.0
        return (free - tokens) / self.buffer_tokens
