"""What each completion's sum of token losses is divided by.

loss = Σ_i (Σ_t token loss) / d_i,  so that the choice of d is the whole difference between the
aggregations. They are fixed when the rollout is made, from whole groups; the gradient then does not
depend on how the rollout is cut into micro-batches.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

Aggregation = Literal[
    "group-token-mean",
    "group-node-mean",
    "token-mean",
    "seq-mean-token-mean",
    "seq-mean-token-sum-norm",
]


def row_denominators(
    completion_mask: Tensor,
    aggregation: Aggregation,
    norm_length: int | None = None,
    set_sizes: Tensor | None = None,
) -> Tensor:
    """The denominator d_i of every completion.

    With len(i) tokens in completion i, N_g = Σ_{i in g} len(i) tokens in group g, and
    K_g = Σ_{i in g} Σ_t 1/|λ(i,t)| nodes in its tree:

    =========================== ===================== =========================================
    aggregation                 d_i                   used by
    =========================== ===================== =========================================
    ``group-token-mean``        N_g · B               Eq. 9 of arXiv 2509.21154, mean over groups
    ``group-node-mean``         K_g · B               nobody: with λ, the mean over a tree's nodes
    ``token-mean``              Σ_g N_g               DAPO, arXiv 2503.14476
    ``seq-mean-token-mean``     len(i) · B · G        GRPO, arXiv 2402.03300
    ``seq-mean-token-sum-norm`` norm_length · B · G   Dr. GRPO, arXiv 2503.20783
    =========================== ===================== =========================================

    A completion without tokens (empty, or masked out) has no loss; it counts in B·G, and a group
    without any token counts in B. Denominators are at least 1.

    Args:
        completion_mask: [B, G, T] bool, the tokens that carry loss.
        aggregation: see above.
        norm_length: the constant of ``seq-mean-token-sum-norm``, in tokens, usually the maximal
            completion length; T by default.
        set_sizes: [B, G, T] long, |λ(i,t)| of the same tokens; needed by ``group-node-mean`` alone.

    Returns:
        [B, G] float32, exact up to 2^24 tokens.

    Raises:
        ValueError: if the mask is not [B, G, T], the aggregation unknown, the length below 1, or
            set sizes are needed and not given.
    """
    if completion_mask.dim() != 3:
        raise ValueError(f"completion_mask must be [B, G, T], got {list(completion_mask.shape)}")
    num_groups, group_size, length = completion_mask.shape
    if norm_length is not None and norm_length < 1:
        raise ValueError(f"norm_length must be at least 1 token, got {norm_length}")
    lengths = completion_mask.sum(-1).float()  # [B, G]; not every device has float64
    match aggregation:
        case "group-token-mean":
            per_row = lengths.sum(1, keepdim=True) * num_groups
        case "group-node-mean":
            if set_sizes is None:
                raise ValueError("aggregation 'group-node-mean' needs set_sizes; got None")
            weights = torch.where(completion_mask, 1 / set_sizes.clamp(min=1).float(), 0.0)
            # A number of nodes is whole; the sum of thirds is not.
            per_row = weights.sum((1, 2)).round().unsqueeze(1) * num_groups
        case "token-mean":
            per_row = lengths.sum()
        case "seq-mean-token-mean":
            per_row = lengths * (num_groups * group_size)
        case "seq-mean-token-sum-norm":
            tokens = length if norm_length is None else norm_length
            per_row = torch.full_like(lengths, tokens * num_groups * group_size)
        case _:
            raise ValueError(
                f"aggregation must be one of {get_args(Aggregation)}, got {aggregation!r}"
            )
    return per_row.expand_as(lengths).clamp(min=1)
