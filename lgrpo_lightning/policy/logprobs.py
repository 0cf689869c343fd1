"""Log-probs of completions under a model, the quantity that everything else is made of.

    log π(y_t | x, y_<t) = z_t[y_t]/τ - logsumexp_v(z_t[v]/τ)

with the logits z and the temperature τ of sampling. Where sampling is limited to some tokens, the
sum runs over those: the policy is the distribution that is sampled from.

Legend: B prompts, G completions of a group, T completion tokens, P prompt tokens, M completions.
"""

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from lgrpo_lightning.policy.padded import padded_scores
from lgrpo_lightning.policy.scores import TokenScores
from lgrpo_lightning.policy.support import Engine
from lgrpo_lightning.policy.tree import tree_scores


def completion_logprobs(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    temperature: float = 1.0,
    engine: Engine = "tree",
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
        engine: how to run the model: ``"tree"`` computes every shared token once, ``"tree_flex"``
            too, by kernels compiled for CUDA, ``"padded"`` every completion by itself. Values and
            gradients agree to rounding.
        allowed_tokens: the tokens that could be sampled; None for the whole vocabulary.

    Returns:
        [B, G, T] float, differentiable, 0 at padding.

    Raises:
        ValueError: if shapes do not fit, an argument is out of range, or the tree engine cannot
            serve the model (see :func:`~lgrpo_lightning.policy.resolve_engine`).
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
    engine: Engine = "tree",
    allowed_tokens: Sequence[int] | None = None,
    max_tokens_per_row: int | None = None,
) -> Tensor:
    """The same for M completions in rows, which may be parts of groups: see :func:`row_scores`.

    Returns:
        [M, T] float, differentiable, 0 at padding.
    """
    return row_scores(
        model,
        prompt_ids,
        prompt_mask,
        completion_ids,
        completion_mask,
        groups,
        temperature,
        engine,
        allowed_tokens,
        max_tokens_per_row,
    ).logprobs


def row_scores(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    groups: Tensor,
    temperature: float = 1.0,
    engine: Engine = "tree",
    allowed_tokens: Sequence[int] | None = None,
    max_tokens_per_row: int | None = None,
    return_entropy: bool = False,
) -> TokenScores:
    """Log-probs, and on request entropies, of M completions in rows.

    Args:
        model: see :func:`completion_logprobs`.
        prompt_ids: [B, P] long, left-padded.
        prompt_mask: [B, P] bool.
        completion_ids: [M, T] long, right-padded.
        completion_mask: [M, T] bool.
        groups: [M] long, the prompt of each completion.
        temperature: τ > 0.
        engine: how to run the model.
        allowed_tokens: the tokens that could be sampled; None for the whole vocabulary.
        max_tokens_per_row: unique tokens, prompts included, that the tree engine packs into one
            row at most; None for all in one row.
        return_entropy: also compute the entropies of the distributions that the tokens were drawn
            from, in nats, without gradient.

    Returns:
        [M, T] float each, 0 at padding.

    Raises:
        ValueError: if shapes do not fit, an argument is out of range, a group does not fit into a
            row, or the tree engine cannot serve the model.
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
    if not len(groups):
        raise ValueError("there are no completions to score")
    if engine != "padded":
        return tree_scores(
            model,
            prompt_ids,
            prompt_mask,
            completion_ids,
            completion_mask,
            groups,
            temperature,
            allowed_tokens,
            return_entropy,
            max_tokens_per_row,
            flex=engine == "tree_flex",
        )
    return padded_scores(
        model,
        prompt_ids[groups],
        prompt_mask[groups],
        completion_ids,
        completion_mask,
        temperature,
        allowed_tokens,
        return_entropy,
    )
