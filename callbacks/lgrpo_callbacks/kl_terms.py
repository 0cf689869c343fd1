"""What KLTracker measures on the tokens of one micro-batch.

Legend: M completions of a micro-batch, T completion tokens.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lgrpo_callbacks.metrics import kl_estimates

ESTIMATORS = ("k1", "k2", "k3")


class Term(NamedTuple):
    """Values to be averaged over the tokens of a mask.

    Attributes:
        values: name → [M, T].
        mask: [M, T] bool.
    """

    values: dict[str, Tensor]
    mask: Tensor


class KLTerms(NamedTuple):
    """The terms of one micro-batch and the completions that may spoil them.

    Attributes:
        terms: what is averaged.
        suspects: [M] bool, completions with a NaN or infinite advantage or value at a token; all
            of them if only the loss is NaN or infinite.
    """

    terms: list[Term]
    suspects: Tensor


def kl_terms(
    outputs: Mapping[str, Any], clip_low: float, clip_high: float, position_bins: int
) -> KLTerms:
    """Compute KL estimates, clip share, entropy and KL by position from a training step's output.

    Args:
        outputs: ``logprobs``, ``old_logprobs``, ``ref_logprobs`` (or None) and optionally
            ``entropy``, each [M, T], ``mask`` [M, T] bool, ``loss`` and optionally
            ``advantages`` [M].
        clip_low: a ratio below 1 − clip_low counts as clipped.
        clip_high: a ratio above 1 + clip_high counts as clipped.
        position_bins: number of bins of :func:`position_bin`; 0 for none.

    Raises:
        ValueError: if a tensor has another shape than ``logprobs``.
    """
    mask = outputs["mask"].bool()
    logprobs = _checked("logprobs", outputs["logprobs"], mask)
    sampler = _checked("old_logprobs", outputs["old_logprobs"], mask)
    ratio = (logprobs - sampler).exp()
    k1, k2, k3 = kl_estimates(logprobs, sampler, sampler)
    values = {"sampler_k1": k1, "sampler_k2": k2, "sampler_k3": k3, "ratio": ratio}
    by_position = ("sampler", k3)
    if outputs["ref_logprobs"] is not None:
        reference = _checked("ref_logprobs", outputs["ref_logprobs"], mask)
        k1, k2, k3 = kl_estimates(logprobs, reference, sampler)
        values |= {"ref_k1": k1, "ref_k2": k2, "ref_k3": k3}
        by_position = ("ref", k3)
    if "entropy" in outputs:
        values["entropy"] = _checked("entropy", outputs["entropy"], mask)
    finite = torch.stack([value.isfinite() for value in values.values()]).all(dim=0)
    values["outside_clip"] = ((ratio < 1 - clip_low) | (ratio > 1 + clip_high)).float()
    terms = [Term(values, mask), *_by_position(*by_position, mask, position_bins)]
    return KLTerms(terms, _suspects(outputs, broken=(~finite & mask).any(dim=1)))


def position_name(kind: str, position: int, position_bins: int) -> str:
    """Return the name of the KL in one part of the completion, such as ``ref_part_1_of_4``."""
    return f"{kind}_part_{position + 1}_of_{position_bins}"


def position_bin(mask: Tensor, position_bins: int) -> Tensor:
    """Return which part of its completion each token lies in: ⌊bins · t / length⌋.

    Args:
        mask: [M, T] bool, the tokens of each completion.
        position_bins: number of equal parts that every completion is cut into.

    Returns:
        [M, T] long, 0 … position_bins − 1 on the mask.
    """
    position = mask.long().cumsum(dim=1) - 1
    length = mask.long().sum(dim=1, keepdim=True).clamp(min=1)
    return torch.div(position * position_bins, length, rounding_mode="floor")


def _by_position(kind: str, values: Tensor, mask: Tensor, position_bins: int) -> Iterator[Term]:
    bins = position_bin(mask, position_bins)
    for position in range(position_bins):
        name = position_name(kind, position, position_bins)
        yield Term({name: values}, mask & (bins == position))


def _suspects(outputs: Mapping[str, Any], broken: Tensor) -> Tensor:
    if "advantages" in outputs:
        broken = broken | ~torch.isfinite(outputs["advantages"])
    loss_alone = ~torch.isfinite(outputs["loss"]) & ~broken.any()
    return broken | loss_alone


def _checked(name: str, values: Tensor, mask: Tensor) -> Tensor:
    """Return values in float32, checked for the mask's shape; off the mask they may be anything."""
    if values.shape != mask.shape:
        raise ValueError(
            f"KLTracker: {name} of training_step's output must have the mask's shape "
            f"{list(mask.shape)}, got {list(values.shape)}"
        )
    return values.float()
