"""Making rollouts: sample, score, log-probs from before the update, terms of whole groups."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lgrpo_lightning.collect import Collector, Sampled
from lgrpo_lightning.data import PromptBatch
from lgrpo_lightning.policy import Reference
from lgrpo_lightning.policy.sharding import is_sharded
from lgrpo_lightning.preflight import spare_prompts
from lgrpo_lightning.resampling import DynamicSampling, replace_groups
from lgrpo_lightning.rollout import Rollout, SamplingSettings, derive_seed
from lgrpo_lightning.rollout.assemble import GroupRules
from lgrpo_lightning.rollout.statistics import Totals, rollout_totals, sample_totals
from lgrpo_lightning.schedule import RolloutSchedule
from lgrpo_lightning.scorer import Scorer
from lgrpo_lightning.tree import ProcessTree
from lgrpo_lightning.tree.micro_batches import balanced_micro_batches


@dataclass(frozen=True)
class RolloutMaker:
    """Makes the rollouts of a run.

    Args:
        collector: samples and scores.
        rules: advantages, denominators, truncation.
        settings: how completions are drawn.
        scorer: computes log-probs.
        gather: gives the tensors of all W processes, [*] to [W, *].
        rank: which of them this process is.
        dynamic: how groups without variance are replaced; None to keep them.
    """

    collector: Collector
    rules: GroupRules
    settings: SamplingSettings
    scorer: Scorer
    gather: Callable[[Tensor], Tensor]
    rank: int
    dynamic: DynamicSampling | None = None

    @torch.no_grad()
    def make(
        self,
        policy: nn.Module,
        reference: Reference | None,
        batch: PromptBatch,
        schedule: RolloutSchedule,
        seed: int,
        device: torch.device,
        loader: object = None,
    ) -> tuple[Rollout, Totals]:
        """One rollout, and what is worth logging of it, as sums and counts.

        Rewards, lengths and truncation are logged of the prompts that were dealt, whatever
        replaced them, so that the curves show the policy and not the choice.

        Args:
            policy: samples.
            reference: of the KL term, if there is one.
            batch: the prompts that were dealt.
            schedule: how the rollout will be worked off.
            seed: of this rollout on this process.
            device: where its tensors go.
            loader: where dynamic sampling gets other prompts from.

        Raises:
            ValueError: if dynamic sampling is on and the loader has no other prompts to give.
        """
        spare = None if self.dynamic is None else spare_prompts(loader, batch)

        def draw(prompts: PromptBatch, seed: int, sync: bool = False) -> Sampled:
            return self.collector.collect(
                policy, prompts, schedule.group_size, self.settings, seed, device, sync
            )

        sampled, totals = draw(batch, seed, sync=True), None
        if self.dynamic is not None and spare is not None:
            sampled, totals = replace_groups(
                sampled,
                self.dynamic.max_rounds,
                lambda turn, count: draw(spare(turn, count), derive_seed(seed, "round", turn)),
                self.gather,
                in_step=is_sharded(policy),
            )
        completions = sampled.completions
        tree = ProcessTree.from_completions(completions.ids, completions.mask)
        cut = balanced_micro_batches(tree, sampled.prompt_mask.sum(1), schedule.num_micro_batches)
        micro_batches = torch.stack(cut).sort(dim=1).values  # [K, M]
        # The rewards are computed by worker processes in the meantime, unless they were needed.
        tokens = (sampled.prompt_ids, sampled.prompt_mask, completions.ids, completions.mask)
        old = None if schedule.on_policy else self.scorer.whole(policy, *tokens, micro_batches)
        ref = None
        if reference is not None:
            with reference.model(policy) as model:
                ref = self.scorer.whole(model, *tokens, micro_batches)
        scores = sampled.scores()
        terms = self.rules.apply(completions, tree, scores.rewards, self.gather, self.rank)
        rollout = Rollout(
            epoch=batch.epoch,
            index=batch.rollout,
            prompt_ids=sampled.prompt_ids,
            prompt_mask=sampled.prompt_mask,
            completion_ids=completions.ids,
            completion_mask=completions.mask,
            loss_mask=terms.loss_mask,
            sampler_logprobs=completions.logprobs,
            old_logprobs=old,
            ref_logprobs=ref,
            rewards=scores.rewards,
            reward_breakdown=scores.breakdown,
            advantages=terms.advantages,
            set_sizes=terms.tree.set_sizes,
            denominators=terms.denominators,
            finished=completions.finished,
            micro_batches=micro_batches,
            prompts=sampled.prompts,
            completions=sampled.texts,
        )
        if totals is None:
            totals = sample_totals(completions, scores.rewards, scores.breakdown)
        return rollout, totals | rollout_totals(terms.tree, scores.errors)
