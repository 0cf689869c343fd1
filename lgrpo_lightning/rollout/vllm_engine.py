"""What the vLLM sampler asks of an engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from lgrpo_lightning.rollout.settings import SamplingSettings


@dataclass(frozen=True)
class Row:
    """One completion.

    Attributes:
        ids: its tokens, the last one included.
        logprobs: of each.
        finished: it ended by itself; False where it was truncated.
    """

    ids: Sequence[int]
    logprobs: Sequence[float]
    finished: bool


class Engine(Protocol):
    """Runs a copy of the policy."""

    def sync(self, policy: nn.Module) -> None:
        """Take over the policy's weights; called by all processes at once."""
        ...

    def generate(
        self, prompts: Sequence[list[int]], group_size: int, parameters: Sequence[dict[str, Any]]
    ) -> list[list[Row]]:
        """B prompts with their settings to ``group_size`` completions each."""
        ...


def request(
    settings: SamplingSettings,
    allowed: list[int] | None,
    end_tokens: list[int],
    group_size: int,
    seed: int,
) -> dict[str, Any]:
    """The settings of one prompt's completions in vLLM's words, for an engine and for a server.

    Args:
        settings: distribution and limits.
        allowed: ids of the tokens that can be drawn; None for all.
        end_tokens: ids that end a completion.
        group_size: G; completion i is drawn with seed + i.
        seed: of the first completion.
    """
    return {
        "n": group_size,
        "seed": seed,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "min_p": settings.min_p,
        "max_tokens": settings.max_new_tokens,
        "stop": settings.stop,
        "stop_token_ids": end_tokens,
        "ignore_eos": True,  # what ends a completion is in end_tokens
        "allowed_token_ids": allowed,
        "logprobs": 0,  # of the drawn token alone
    }
