"""The tree engine: every shared token once, forward and backward, at every level of branching.

Legend: M completions, T completion tokens, P prompt tokens, B prompts, N nodes.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from lgrpo_lightning.policy.flex_attention import BLOCK, FlexAttention
from lgrpo_lightning.policy.path_attention import PathAttention
from lgrpo_lightning.policy.scores import TokenScores, token_scores
from lgrpo_lightning.policy.support import resolve_engine
from lgrpo_lightning.policy.tree_attention import (
    ARGUMENT,
    check_reached,
    install,
    no_mask,
)
from lgrpo_lightning.tree.packing import pack_trees


def tree_scores(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    groups: Tensor,
    temperature: float,
    allowed_tokens: Sequence[int] | None,
    return_entropy: bool,
    max_tokens_per_row: int | None,
    flex: bool,
) -> TokenScores:
    """Score M completions on the prefix trees of their groups.

    The log-prob of a node comes from its parent's hidden state, so siblings share that state, and
    completions share the node.

    Args:
        model: a causal language model of a supported family.
        prompt_ids: [B, P] long, left-padded.
        prompt_mask: [B, P] bool.
        completion_ids: [M, T] long, right-padded.
        completion_mask: [M, T] bool.
        groups: [M] long, the prompt of each completion.
        temperature: τ.
        allowed_tokens: the tokens that could be sampled; None for all.
        return_entropy: also compute entropies.
        max_tokens_per_row: see :func:`~lgrpo_lightning.tree.packing.pack_trees`.
        flex: attend by FlexAttention and fuse the head's tiles, both compiled for CUDA.

    Returns:
        [M, T], 0 at padding.

    Raises:
        ValueError: if the model cannot be served, a group does not fit into a row, or compiled
            kernels are asked for elsewhere than on CUDA.
    """
    resolve_engine(model, "tree_flex" if flex else "tree", device=completion_ids.device)
    install(model)
    device = completion_ids.device
    if device.type == "cuda":
        # Packing asks many small questions, and the device would have to stop for each of them.
        prompt_ids, prompt_mask, completion_ids, completion_mask, groups = (
            part.cpu()
            for part in (prompt_ids, prompt_mask, completion_ids, completion_mask, groups)
        )
    packed = pack_trees(
        prompt_ids,
        prompt_mask,
        completion_ids,
        completion_mask,
        groups,
        max_tokens_per_row,
        BLOCK if flex else 1,
    ).to(device)
    attention = FlexAttention(packed) if flex else PathAttention(packed)
    inputs = {
        "input_ids": packed.ids,
        "position_ids": packed.positions,
        "attention_mask": no_mask(packed.ids.device),
        ARGUMENT: attention,
    }
    scores = token_scores(
        model,
        inputs,
        packed.parents,
        packed.targets,
        temperature,
        allowed_tokens,
        return_entropy,
        fused=flex,
    )
    check_reached(model, attention)

    def rowed(values: Tensor) -> Tensor:
        """[N] to [M, T]."""
        if not len(values):
            return values.new_zeros(packed.mask.shape)
        return values[packed.nodes].masked_fill(~packed.mask, 0)

    entropy = None if scores.entropy is None else rowed(scores.entropy)
    return TokenScores(rowed(scores.logprobs), entropy)
