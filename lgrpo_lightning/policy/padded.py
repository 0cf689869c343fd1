"""The padded engine: every completion a row of its own, prompt and all.

Legend: M completions, T completion tokens, P prompt tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lgrpo_lightning.policy.scores import TokenScores, token_scores


def padded_scores(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    temperature: float,
    allowed_tokens: Sequence[int] | None,
    return_entropy: bool,
) -> TokenScores:
    """Score M completions, each after its own prompt.

    Args:
        model: a causal language model of transformers.
        prompt_ids: [M, P] long, left-padded.
        prompt_mask: [M, P] bool.
        completion_ids: [M, T] long, right-padded.
        completion_mask: [M, T] bool.
        temperature: τ.
        allowed_tokens: the tokens that could be sampled; None for all.
        return_entropy: also compute entropies.

    Returns:
        [M, T], 0 at padding.
    """
    mask = torch.cat([prompt_mask, completion_mask], dim=1).long()  # [M, P + T]
    inputs = {
        "input_ids": torch.cat([prompt_ids, completion_ids], dim=1),
        "attention_mask": mask,
        # Left padding must not move a token: its position is the number of real tokens before it.
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
    }
    real = completion_mask.bool()
    rows, steps = real.nonzero(as_tuple=True)
    take = rows * mask.shape[1] + prompt_ids.shape[1] + steps - 1  # the token before predicts it
    scores = token_scores(
        model, inputs, take, completion_ids[real], temperature, allowed_tokens, return_entropy
    )

    def rowed(values: Tensor) -> Tensor:
        return values.new_zeros(real.shape).masked_scatter(real, values)

    entropy = None if scores.entropy is None else rowed(scores.entropy)
    return TokenScores(rowed(scores.logprobs), entropy)
