"""From logits to tokens: the distribution completions come from, and drawing from it.

    π(v) = exp(z_v/τ) / Σ_w exp(z_w/τ),    w over the allowed tokens

The log-prob of a drawn token is always that of π. top-k, top-p and min-p only limit what is drawn.

Legend: n rows, V vocabulary, A allowed tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lgrpo_lightning.rollout.settings import SamplingSettings

BLOCK = 64  # tokens; about the square root of a usual vocabulary, so that both searches are short


def limiter(settings: SamplingSettings) -> Callable[[Tensor], Tensor]:
    """Sets what the settings leave out of the draw to -inf, in ``generate``'s order: [n, V]."""
    processors = LogitsProcessorList()
    if settings.top_k:
        processors.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        processors.append(TopPLogitsWarper(settings.top_p))
    if settings.min_p:
        processors.append(MinPLogitsWarper(settings.min_p))
    # None of them looks at the tokens so far.
    return lambda scores: processors(None, scores)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class TokenDistribution:
    """Draws tokens and tells their log-probs.

    Args:
        temperature: τ; 0 takes the most likely token, with its log-prob at τ = 1.
        limit: see :func:`limiter`.
        allowed: [A] long, the allowed tokens; None for all.
    """

    temperature: float
    limit: Callable[[Tensor], Tensor]
    allowed: Tensor | None

    def draw(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Draw one token per row.

        Args:
            logits: [n, V], of any floating type.
            uniform: [n, 2] in [0, 1), the only source of chance.

        Returns:
            The tokens [n] long and their log-probs under π [n] float32.
        """
        scores = logits.float() if self.allowed is None else logits[:, self.allowed].float()
        if self.temperature not in (0, 1):
            scores = scores / self.temperature
        logprobs = scores.log_softmax(-1)
        if self.temperature == 0:
            drawn = logprobs.argmax(-1)
        else:
            drawn = pick(self.limit(logprobs).exp(), uniform)
        chosen = logprobs.gather(1, drawn.unsqueeze(1)).squeeze(1)
        return (drawn if self.allowed is None else self.allowed[drawn]), chosen


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw a column per row with probability proportional to its weight.

    By inverting the cumulative weights, first of blocks of columns, then within the block. The two
    independent numbers keep rare columns in proportion although sums in float32 would lose them.

    Args:
        weights: [n, V], 0 or more, not all 0 in a row.
        uniform: [n, 2] in [0, 1).

    Returns:
        [n] long; never a column of weight 0.
    """
    if weights.shape[1] <= BLOCK:
        return _invert(weights, uniform[:, 1])
    blocks = F.pad(weights, (0, -weights.shape[1] % BLOCK)).view(len(weights), -1, BLOCK)
    block = _invert(blocks.sum(-1), uniform[:, 0])
    rows = torch.arange(len(weights), device=weights.device)
    return block * BLOCK + _invert(blocks[rows, block], uniform[:, 1])


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """The first column whose cumulative weight exceeds that share of the total. [n, m] to [n]."""
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    # Rounded up, the mark could reach the total, which no cumulative weight exceeds.
    mark = torch.minimum(uniform.unsqueeze(1) * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, mark, right=True).squeeze(1)
