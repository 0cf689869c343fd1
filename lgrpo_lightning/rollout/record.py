"""The record of one rollout, which all its updates work from."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.objective import LossInputs
from lgrpo_lightning.rollout.mismatch import importance_weights
from lgrpo_lightning.tree import ProcessTree


@dataclass(frozen=True, eq=False)
class Rollout:
    """What was sampled for B prompts of one process, and all that the updates need of it.

    Whatever depends on whole groups (advantages, set sizes, denominators) is fixed here, so that
    the gradient does not depend on how the rollout is cut into micro-batches.

    Legend: B prompts, G completions of a group, T completion tokens, P prompt tokens.

    Attributes:
        epoch, index: which rollout of the run this is.
        prompt_ids: [B, P] long, left-padded.
        prompt_mask: [B, P] bool.
        completion_ids: [B, G, T] long, right-padded.
        completion_mask: [B, G, T] bool, the sampled tokens.
        loss_mask: [B, G, T] bool, the sampled tokens that carry loss.
        sampler_logprobs: [B, G, T], as the sampler computed them.
        old_logprobs: [B, G, T] of the policy before the first update; None where every update is
            on-policy, so that they are the policy's own.
        ref_logprobs: [B, G, T] of the reference; None without a KL term.
        rewards: [B, G], NaN where no reward function applied.
        reward_breakdown: per reward function [B, G], NaN where it did not apply.
        advantages: [B, G].
        set_sizes: [B, G, T] long, |λ|; 0 off ``loss_mask``.
        denominators: [B, G], see :func:`~lgrpo_lightning.objective.row_denominators`.
        finished: [B, G] bool, False for truncated completions.
        micro_batches: [K, M] long, the completions of each micro-batch, counted over B·G.
        prompts: B rendered prompts.
        completions: B lists of G completions as text.
    """

    epoch: int
    index: int
    prompt_ids: Tensor
    prompt_mask: Tensor
    completion_ids: Tensor
    completion_mask: Tensor
    loss_mask: Tensor
    sampler_logprobs: Tensor
    old_logprobs: Tensor | None
    ref_logprobs: Tensor | None
    rewards: Tensor
    reward_breakdown: dict[str, Tensor]
    advantages: Tensor
    set_sizes: Tensor
    denominators: Tensor
    finished: Tensor
    micro_batches: Tensor
    prompts: list[str]
    completions: list[list[str]]

    @property
    def num_completions(self) -> int:
        """R = B·G."""
        return self.rewards.numel()

    def serves(
        self, epoch: int, index: int, shape: tuple[int, int, int], with_reference: bool
    ) -> bool:
        """Whether training steps of that rollout can be made of it.

        Not so where a run goes on with other sizes, or with a KL term it did not have.

        Args:
            epoch: of the rollout that is worked off.
            index: of the same.
            shape: B, G and the number of micro-batches K.
            with_reference: whether there is a KL term.
        """
        return (
            (self.epoch, self.index) == (epoch, index)
            and (*self.rewards.shape, len(self.micro_batches)) == shape
            and (self.ref_logprobs is not None) == with_reference
        )

    def tree(self) -> ProcessTree:
        """The process tree of the completions that carry loss."""
        return ProcessTree.from_completions(self.completion_ids, self.loss_mask)

    def micro_batch(self, step: int) -> "MicroBatch":
        """The completions of training step ``step``, without common padding."""
        rows = self.micro_batches[step % len(self.micro_batches)]
        groups = rows // self.rewards.shape[1]
        lengths = self.completion_mask.flatten(0, 1)[rows].sum(-1)
        length = max(int(lengths.max()), 1)

        def cut(value: Tensor) -> Tensor:
            return value.flatten(0, 1)[rows, :length]

        def optional(value: Tensor | None) -> Tensor | None:
            return None if value is None else cut(value)

        group_list, row_list = groups.tolist(), rows.tolist()
        group_size = self.rewards.shape[1]
        return MicroBatch(
            rows=rows,
            groups=groups,
            group_size=group_size,
            completion_ids=cut(self.completion_ids),
            completion_mask=cut(self.completion_mask),
            loss_mask=cut(self.loss_mask),
            sampler_logprobs=cut(self.sampler_logprobs),
            old_logprobs=optional(self.old_logprobs),
            ref_logprobs=optional(self.ref_logprobs),
            advantages=self.advantages.flatten()[rows],
            set_sizes=cut(self.set_sizes),
            denominators=self.denominators.flatten()[rows],
            rewards=self.rewards.flatten()[rows],
            reward_breakdown={
                name: values.flatten()[rows] for name, values in self.reward_breakdown.items()
            },
            finished=self.finished.flatten()[rows],
            prompts=[self.prompts[group] for group in group_list],
            completions=[
                self.completions[group][row % group_size]
                for group, row in zip(group_list, row_list, strict=True)
            ],
        )

    def to(self, device: torch.device) -> "Rollout":
        """The same record with its tensors on ``device``."""
        state = {item.name: getattr(self, item.name) for item in fields(self)}
        return Rollout(**_moved(state, device))

    def state_dict(self) -> dict[str, Any]:
        """The record as plain tensors, numbers, strings and lists, for a checkpoint."""
        return dict(vars(self.to(torch.device("cpu"))))

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: torch.device) -> "Rollout":
        """The inverse of :meth:`state_dict`, with its tensors on ``device``."""
        return cls(**_moved(state, device))


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """M completions of a rollout, in rows; see :class:`Rollout` for the fields.

    Attributes:
        rows: [M] long, their numbers over B·G.
        groups: [M] long, the prompt of each.
        group_size: G.
    """

    rows: Tensor
    groups: Tensor
    group_size: int
    completion_ids: Tensor
    completion_mask: Tensor
    loss_mask: Tensor
    sampler_logprobs: Tensor
    old_logprobs: Tensor | None
    ref_logprobs: Tensor | None
    advantages: Tensor
    set_sizes: Tensor
    denominators: Tensor
    rewards: Tensor
    reward_breakdown: dict[str, Tensor]
    finished: Tensor
    prompts: list[str]
    completions: list[str]

    def loss_inputs(
        self, logprobs: Tensor, old_logprobs: Tensor, importance_cap: float | None = None
    ) -> LossInputs:
        """What the loss takes, given the log-probs of the policy now and before the update.

        Args:
            logprobs: [M, T], with gradient.
            old_logprobs: [M, T].
            importance_cap: largest weight of a token in the correction for a sampler whose
                log-probs differ from ``old_logprobs``; None for no correction.
        """
        weights = None
        if importance_cap is not None:
            weights = importance_weights(
                old_logprobs, self.sampler_logprobs, self.loss_mask, importance_cap
            )
        return LossInputs(
            logprobs=logprobs,
            old_logprobs=old_logprobs,
            ref_logprobs=self.ref_logprobs,
            advantages=self.advantages,
            mask=self.loss_mask,
            set_sizes=self.set_sizes,
            denominators=self.denominators,
            importance_weights=weights,
        )

    def observables(self) -> dict[str, Any]:
        """What callbacks read of a training step, besides the loss and the policy's log-probs."""
        return {
            "ref_logprobs": self.ref_logprobs,
            "mask": self.loss_mask,
            "set_sizes": self.set_sizes,
            "advantages": self.advantages,
            "rewards": self.rewards,
            "reward_breakdown": self.reward_breakdown,
            "truncated": ~self.finished,
            "lengths": self.completion_mask.sum(-1),
            "group": self.groups,
            "group_size": self.group_size,
            "completion_ids": self.completion_ids,
            "prompts": self.prompts,
            "completions": self.completions,
        }


def _moved(state: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The tensors of a (nested) mapping on ``device``, everything else as it is."""
    return {
        name: value.to(device)
        if isinstance(value, Tensor)
        else _moved(value, device)
        if isinstance(value, dict)
        else value
        for name, value in state.items()
    }
