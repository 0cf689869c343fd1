"""Making rollouts: sample, score, log-probs from before the update, terms of whole groups."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lgrpo_lightning.collect import Collector, Sampled
from lgrpo_lightning.data import PromptBatch
from lgrpo_lightning.policy import Engine, Reference, row_logprobs
from lgrpo_lightning.rollout import Rollout, SamplingSettings
from lgrpo_lightning.rollout.assemble import GroupRules
from lgrpo_lightning.rollout.statistics import Totals, rollout_totals
from lgrpo_lightning.schedule import RolloutSchedule


@dataclass(frozen=True)
class RolloutMaker:
    """Makes the rollouts of a run.

    Args:
        collector: samples and scores.
        rules: advantages, denominators, truncation.
        settings: how completions are drawn.
        allowed_tokens: ids of the tokens that can be drawn; None for all.
        engine: how log-probs are computed.
        gather: gives the tensors of all W processes, [*] to [W, *].
        rank: which of them this process is.
    """

    collector: Collector
    rules: GroupRules
    settings: SamplingSettings
    allowed_tokens: list[int] | None
    engine: Engine
    gather: Callable[[Tensor], Tensor]
    rank: int

    @torch.no_grad()
    def make(
        self,
        policy: nn.Module,
        reference: Reference | None,
        batch: PromptBatch,
        schedule: RolloutSchedule,
        seed: int,
        device: torch.device,
    ) -> tuple[Rollout, Totals]:
        """One rollout, and what is worth logging of it, as sums and counts."""
        sampled = self.collector.collect(
            policy, batch, schedule.group_size, self.settings, seed, device
        )
        # The rewards are computed by worker processes in the meantime.
        old = None if schedule.on_policy else self._logprobs(policy, sampled, schedule)
        ref = None
        if reference is not None:
            with reference.model(policy) as model:
                ref = self._logprobs(model, sampled, schedule)
        scores = sampled.scores()
        terms = self.rules.apply(sampled.completions, scores.rewards, self.gather, self.rank)
        rollout = Rollout(
            epoch=batch.epoch,
            index=batch.rollout,
            prompt_ids=sampled.prompt_ids,
            prompt_mask=sampled.prompt_mask,
            completion_ids=sampled.completions.ids,
            completion_mask=sampled.completions.mask,
            loss_mask=terms.loss_mask,
            sampler_logprobs=sampled.completions.logprobs,
            old_logprobs=old,
            ref_logprobs=ref,
            rewards=scores.rewards,
            reward_breakdown=scores.breakdown,
            advantages=terms.advantages,
            set_sizes=terms.tree.set_sizes,
            denominators=terms.denominators,
            finished=sampled.completions.finished,
            prompts=sampled.prompts,
            completions=sampled.texts,
        )
        return rollout, rollout_totals(rollout, terms.tree, scores.errors)

    def _logprobs(self, model: nn.Module, sampled: Sampled, schedule: RolloutSchedule) -> Tensor:
        """Log-probs of a whole rollout under ``model``, micro-batch by micro-batch. [B, G, T]."""
        completions = sampled.completions
        ids, mask = completions.ids.flatten(0, 1), completions.mask.flatten(0, 1)
        training = model.training
        model.eval()  # without dropout, as when sampling
        parts = []
        for step in range(schedule.num_micro_batches):
            rows = schedule.rows(step, ids.device)
            parts.append(
                row_logprobs(
                    model,
                    sampled.prompt_ids,
                    sampled.prompt_mask,
                    ids[rows],
                    mask[rows],
                    rows // schedule.group_size,
                    self.settings.temperature,
                    self.engine,
                    self.allowed_tokens,
                )
            )
        model.train(training)
        return torch.cat(parts).view(completions.ids.shape)
