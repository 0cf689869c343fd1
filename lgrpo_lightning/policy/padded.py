"""The padded engine: every completion a row of its own, prompt and all.

Legend: M completions, T completion tokens, P prompt tokens, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def padded_logprobs(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    temperature: float,
    allowed_tokens: Sequence[int] | None,
) -> Tensor:
    """Log-probs of M completions, each after its own prompt.

    Args:
        model: a causal language model of transformers.
        prompt_ids: [M, P] long, left-padded.
        prompt_mask: [M, P] bool.
        completion_ids: [M, T] long, right-padded.
        completion_mask: [M, T] bool.
        temperature: τ.
        allowed_tokens: the tokens that could be sampled; None for all.

    Returns:
        [M, T] float32 or wider, 0 at padding.
    """
    length = completion_ids.shape[1]
    mask = torch.cat([prompt_mask, completion_mask], dim=1).long()  # [M, P + T]
    ids = torch.cat([prompt_ids, completion_ids], dim=1)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        # Left padding must not move a token: its position is the number of real tokens before it.
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        logits_to_keep=length + 1,
        use_cache=False,
    ).logits[:, :-1]  # [M, T, V]; the last one predicts a token that was never sampled
    return selected_logprobs(logits, completion_ids, completion_mask, temperature, allowed_tokens)


def selected_logprobs(
    logits: Tensor,
    ids: Tensor,
    mask: Tensor,
    temperature: float,
    allowed_tokens: Sequence[int] | None,
) -> Tensor:
    """Log-probs of the tokens ``ids`` under softmax(z/τ) over the allowed tokens; 0 off the mask.

    Args:
        logits: [..., V], z.
        ids: [...] long.
        mask: [...] bool.
        temperature: τ.
        allowed_tokens: the tokens that could be sampled; None for all.

    Returns:
        [...], float32 or wider whatever the type of the logits.
    """
    scaled = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    scaled = scaled / temperature
    chosen = scaled.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    if allowed_tokens is not None:
        scaled = scaled[..., torch.as_tensor(allowed_tokens, device=scaled.device)]
    return torch.where(mask, chosen - scaled.logsumexp(-1), 0.0)
