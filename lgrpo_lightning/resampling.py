"""Dynamic sampling: groups whose rewards are all equal give way to groups of other prompts.

    while groups have no variance and rounds are left:
        sample as many other prompts; their groups that have variance take the places

Source: DAPO (arXiv 2503.14476), Section 3.2. Different from there: docs/sampling.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from lgrpo_lightning.collect import Sampled, Scores
from lgrpo_lightning.rollout import Completions
from lgrpo_lightning.rollout.assemble import zero_variance_groups
from lgrpo_lightning.rollout.statistics import Totals, sample_totals


@dataclass(frozen=True)
class DynamicSampling:
    """Replace groups without variance, which have no gradient, by groups of other prompts.

    Args:
        max_rounds: how often at most prompts are sampled in place of others, within a rollout. A
            rollout so samples at most (1 + ``max_rounds``) times its prompts. Groups that are
            without variance after the last round stay in.
    """

    max_rounds: int = 3

    def __post_init__(self) -> None:
        """Check the range."""
        if self.max_rounds < 1:
            raise ValueError(
                f"dynamic_sampling.max_rounds must be at least 1, got {self.max_rounds}; leave "
                "dynamic_sampling out to switch it off"
            )


def replace_groups(
    sampled: Sampled,
    max_rounds: int,
    draw: Callable[[int, int], Sampled],
    gather: Callable[[Tensor], Tensor],
    in_step: bool,
) -> tuple[Sampled, Totals]:
    """Replace groups without variance until there are none, or no rounds left.

    Args:
        sampled: B groups of this process.
        max_rounds: see :class:`DynamicSampling`.
        draw: samples other prompts: (round from 0, how many) to their groups.
        gather: gives the tensors of all W processes, [*] to [W, *]. All processes make as many
            rounds as the one that needs most.
        in_step: whether processes must sample together, also those with nothing to replace.

    Returns:
        B groups with their rewards; and, as sums and counts, those of
        :func:`~lgrpo_lightning.rollout.statistics.sample_totals` before anything was replaced,
        ``resampled_groups``, the groups sampled in place of others, and
        ``zero_variance_groups_left``, both per group of the rollout.
    """
    groups = len(sampled.prompts)
    resampled = 0
    totals: Totals = {}
    for number in range(max_rounds + 1):
        scores = sampled.scores()
        sampled = replace(sampled, scores=partial(_itself, scores))  # waited for once
        if number == 0:
            totals = sample_totals(sampled.completions, scores.rewards, scores.breakdown)
        places = zero_variance_groups(scores.rewards).nonzero().flatten()
        waiting = torch.tensor(len(places), device=places.device)
        if number == max_rounds or not gather(waiting).any():
            break
        if len(places) or in_step:
            others = draw(number, max(len(places), 1))
            resampled += len(places)
            sampled = exchanged(sampled, places, others)
    totals["resampled_groups"] = (float(resampled), groups)
    totals["zero_variance_groups_left"] = (float(len(places)), groups)
    return sampled, totals


def exchanged(sampled: Sampled, places: Tensor, others: Sampled) -> Sampled:
    """``sampled`` with those of the first groups of ``others`` that have variance at ``places``.

    Args:
        sampled: B groups.
        places: [n] long, the groups that may go.
        others: n groups or more.
    """
    scores, new = sampled.scores(), others.scores()
    good = (~zero_variance_groups(new.rewards[: len(places)])).nonzero().flatten()
    # Which group of both together, counted over sampled and then others, comes to each place.
    source = torch.arange(len(sampled.prompts), device=good.device)
    source[places[: len(good)]] = len(sampled.prompts) + good

    def joined(old: Tensor, new: Tensor) -> Tensor:
        """Along the groups; the last dimension is filled up on the right."""
        width = max(old.shape[-1], new.shape[-1])
        parts = [pad(value, (0, width - value.shape[-1])) for value in (old, new)]
        return torch.cat(parts)[source]

    def listed(old: list[str] | list[list[str]], new: list[str] | list[list[str]]) -> list:  # type: ignore[type-arg]
        return [[*old, *new][place] for place in source.tolist()]

    first, second = sampled.completions, others.completions
    mask = joined(first.mask, second.mask)
    length = max(int(mask.sum(-1).max()), 1)
    # Prompts are padded on the left.
    prompt_mask = joined(sampled.prompt_mask.flip(1), others.prompt_mask.flip(1))
    width = int(prompt_mask.sum(-1).max())
    prompt_ids = joined(sampled.prompt_ids.flip(1), others.prompt_ids.flip(1))
    merged = Scores(
        rewards=joined(scores.rewards, new.rewards),
        breakdown={
            name: joined(values, new.breakdown[name]) for name, values in scores.breakdown.items()
        },
        errors={name: count + new.errors[name] for name, count in scores.errors.items()},
    )
    return replace(
        sampled,
        prompt_ids=prompt_ids[:, :width].flip(1),
        prompt_mask=prompt_mask[:, :width].flip(1),
        completions=Completions(
            ids=joined(first.ids, second.ids)[..., :length],
            mask=mask[..., :length],
            logprobs=joined(first.logprobs, second.logprobs)[..., :length],
            finished=joined(first.finished, second.finished),
        ),
        prompts=listed(sampled.prompts, others.prompts),
        texts=listed(sampled.texts, others.texts),
        scores=partial(_itself, merged),
    )


def _itself(scores: Scores) -> Scores:
    return scores
