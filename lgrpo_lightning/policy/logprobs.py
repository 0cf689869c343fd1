"""Log-probs of completions under a model, the quantity that everything else is made of.

    log π(y_t | x, y_<t) = z_t[y_t]/τ - logsumexp_v(z_t[v]/τ)

with the logits z and the temperature τ of sampling. Where sampling is limited to some tokens, the
sum runs over those: the policy is the distribution that is sampled from.

Legend: B prompts, G completions of a group, T completion tokens, P prompt tokens, M completions.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lgrpo_lightning.policy.padded import padded_logprobs

Engine = Literal["padded"]


def completion_logprobs(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    temperature: float = 1.0,
    engine: Engine = "padded",
    allowed_tokens: Sequence[int] | None = None,
) -> Tensor:
    """Log-probs of the tokens of B groups of completions.

    Args:
        model: a causal language model of transformers, or a peft model around one.
        prompt_ids: [B, P] long, left-padded.
        prompt_mask: [B, P] bool.
        completion_ids: [B, G, T] long, right-padded.
        completion_mask: [B, G, T] bool.
        temperature: τ > 0, the logits are divided by it.
        engine: how to run the model.
        allowed_tokens: the tokens that could be sampled; None for the whole vocabulary.

    Returns:
        [B, G, T] float, differentiable, 0 at padding.

    Raises:
        ValueError: if shapes do not fit or an argument is out of range.
    """
    groups = torch.arange(len(prompt_ids), device=prompt_ids.device)
    if completion_ids.dim() != 3 or len(completion_ids) != len(prompt_ids):
        raise ValueError(
            f"completion_ids must be [B, G, T] with B = {len(prompt_ids)} prompts, "
            f"got {list(completion_ids.shape)}"
        )
    rows = row_logprobs(
        model,
        prompt_ids,
        prompt_mask,
        completion_ids.flatten(0, 1),
        completion_mask.flatten(0, 1),
        groups.repeat_interleave(completion_ids.shape[1]),
        temperature,
        engine,
        allowed_tokens,
    )
    return rows.view(completion_ids.shape)


def row_logprobs(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    groups: Tensor,
    temperature: float = 1.0,
    engine: Engine = "padded",
    allowed_tokens: Sequence[int] | None = None,
) -> Tensor:
    """The same for M completions in rows, which may be parts of groups.

    Args:
        model: see :func:`completion_logprobs`.
        prompt_ids: [B, P] long, left-padded.
        prompt_mask: [B, P] bool.
        completion_ids: [M, T] long, right-padded.
        completion_mask: [M, T] bool.
        groups: [M] long, the prompt of each completion; completions of one prompt are neighbours.
        temperature: τ > 0.
        engine: how to run the model.
        allowed_tokens: the tokens that could be sampled; None for the whole vocabulary.

    Returns:
        [M, T] float, differentiable, 0 at padding.

    Raises:
        ValueError: if shapes do not fit or an argument is out of range.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if engine not in get_args(Engine):
        raise ValueError(f"engine must be one of {get_args(Engine)}, got {engine!r}")
    if completion_ids.shape != completion_mask.shape or groups.shape != completion_ids.shape[:1]:
        raise ValueError(
            "completion_ids and completion_mask must be [M, T] and groups [M], got "
            f"{list(completion_ids.shape)}, {list(completion_mask.shape)}, {list(groups.shape)}"
        )
    return padded_logprobs(
        model,
        prompt_ids[groups],
        prompt_mask[groups],
        completion_ids,
        completion_mask,
        temperature,
        allowed_tokens,
    )
