"""λ-GRPO as a LightningModule: the one place where the rooms meet."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from lgrpo_lightning.data import PromptBatch, PromptGroupDataModule, PromptSet
from lgrpo_lightning.hyperparameters import coerced, coerced_or_none, keep_plain
from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.objective.advantages import AdvantageScale
from lgrpo_lightning.objective.denominators import Aggregation
from lgrpo_lightning.optimization import default_optimizer, optimization
from lgrpo_lightning.policy import Engine, PolicySettings, resolve_engine
from lgrpo_lightning.policy_module import OnRewardError, PolicyModule
from lgrpo_lightning.preflight import check_batch, check_rows, check_steps, check_training
from lgrpo_lightning.resampling import DynamicSampling
from lgrpo_lightning.resuming import CurrentRollout, fit_to_settings, note_origin
from lgrpo_lightning.rewards import ExtractorLike, RewardLike
from lgrpo_lightning.rollout import SamplerName, SamplingSettings, TokenTexts, seeded
from lgrpo_lightning.rollout.assemble import GroupRules
from lgrpo_lightning.rollout.mismatch import mismatch
from lgrpo_lightning.rollout.vllm_settings import VLLMSettings
from lgrpo_lightning.rollout_maker import RolloutMaker
from lgrpo_lightning.schedule import RolloutSchedule
from lgrpo_lightning.scorer import Scorer
from lgrpo_lightning.step_log import StepLog

log = logging.getLogger(__name__)

_SAMPLING = SamplingSettings()
_GREEDY = SamplingSettings(temperature=0.0)
_LOSS = LambdaGRPOLoss()
_VLLM = VLLMSettings()


class LambdaGRPO(PolicyModule):
    """Fine-tunes a causal language model with λ-GRPO (Sullivan & Koller, arXiv 2509.21154).

        L = Σ_i 1/d_i · Σ_t 1/|λ(i,t)| · [ -P_{i,t} a_i + β KL_{i,t} ]        (Eq. 9)

    One rollout: sample G completions for each of B prompts, score them, build the process tree of
    each group. Then one training step per micro-batch of M completions, under Lightning's automatic
    optimisation. The steps return dicts that callbacks read; docs/architecture.md has their keys.

    Args:
        policy: the model to train.
        rewards: reward functions: dotted paths, ``RewardSpec`` with weight and arguments, or
            functions with TRL's signature.
        group_size: G, completions per prompt, at least 2.
        micro_batch_size: M, completions per training step and process; None for the whole rollout.
        num_iterations: passes over each rollout.
        sampling: how completions are drawn for training.
        evaluation: how they are drawn in validate, test and predict; greedy by default.
        eval_completions: completions per prompt there.
        eval_rewards: reward functions that are run there only, under the same time limit. They are
            reported each; those with a ``RewardSpec.weight`` also count in the reward.
        answer_extractor: dotted path of ``f(completion) -> str | None``, the answer in a
            completion, by which maj@k groups them; None leaves maj@k out.
        loss: surrogate, clipping, β, and whether λ is on.
        aggregation: what each completion's token losses are divided by; ``"group-token-mean"`` is
            Eq. 9, see :func:`~lgrpo_lightning.objective.row_denominators`.
        advantage_scale: ``"group"``, ``"batch"`` or ``"none"``.
        mask_truncated: leave completions that hit ``max_new_tokens`` out of the loss.
        engine: ``"tree"`` runs the model on each shared token once, ``"padded"`` on every
            completion alone, ``"auto"`` the tree where it can; ``"tree_flex"``: performance.md.
        max_tokens_per_row: unique tokens that the tree engine packs into a row; None: no bound.
        entropy: also compute the policy's entropy at every completion token, for the logs.
        sampler: what draws completions: ``"shared_prefix"`` runs every prompt once, ``"hf"`` is
            transformers' ``generate``, ``"vllm"`` an engine of its own; ``"auto"`` takes the first
            that can serve the policy.
        sampler_batch_size: completions sampled at a time; None for the whole rollout.
        vllm: where vLLM runs and what it may take, for ``sampler="vllm"``.
        reward_time_limit: seconds a reward function may take for one rollout.
        on_reward_error: ``"raise"`` ends the run when a reward function fails, ``"skip"`` counts
            the failure and goes on without that function's rewards.
        dynamic_sampling: replace groups without variance by those of other prompts, as DAPO does,
            within bounds; None to keep them. See docs/sampling.md.
        importance_cap: largest weight of a token in the correction for a sampler whose log-probs
            differ from the policy's (truncated importance sampling; 2 is usual); None for none.
        optimizer: makes the optimizer from the trainable parameters.
        lr_scheduler: makes the scheduler from the optimizer; stepped every optimizer step.
        seed: of sampling; None for the seed of ``seed_everything``, or 0 without one.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        policy: PolicySettings,
        rewards: Sequence[RewardLike],
        group_size: int = 8,
        micro_batch_size: int | None = None,
        num_iterations: int = 1,
        sampling: SamplingSettings = _SAMPLING,
        evaluation: SamplingSettings = _GREEDY,
        eval_completions: int = 1,
        eval_rewards: Sequence[RewardLike] = (),
        answer_extractor: ExtractorLike = "lgrpo_lightning.rewards.final_answer",
        loss: LambdaGRPOLoss = _LOSS,
        aggregation: Aggregation = "group-token-mean",
        advantage_scale: AdvantageScale = "group",
        mask_truncated: bool = False,
        engine: Engine | Literal["auto"] = "auto",
        max_tokens_per_row: int | None = None,
        entropy: bool = True,
        sampler: SamplerName = "auto",
        sampler_batch_size: int | None = None,
        vllm: VLLMSettings = _VLLM,
        reward_time_limit: float = 60.0,
        on_reward_error: OnRewardError = "raise",
        dynamic_sampling: DynamicSampling | None = None,
        importance_cap: float | None = None,
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            policy,
            rewards,
            evaluation,
            eval_completions,
            eval_rewards,
            answer_extractor,
            coerced(LambdaGRPOLoss, loss).kl_coef > 0,
            sampler,
            sampler_batch_size,
            reward_time_limit,
            on_reward_error,
            seed,
            vllm,
        )
        self.save_hyperparameters(logger=False)
        keep_plain(self.hparams)
        self.sampling = coerced(SamplingSettings, sampling)
        check_training(group_size, num_iterations, self.sampling.temperature, importance_cap)
        # A copy: a callback may adapt kl_coef, which must not leak into another module.
        self.loss = replace(coerced(LambdaGRPOLoss, loss))
        self.rules = GroupRules(
            aggregation, self.sampling.max_new_tokens, advantage_scale, mask_truncated
        )
        self.group_size, self.micro_batch_size = group_size, micro_batch_size
        self.num_iterations = num_iterations
        self.dynamic_sampling = coerced_or_none(DynamicSampling, dynamic_sampling)
        self.importance_cap = importance_cap
        compiled = self.policy_settings.compile
        self._engine_for = partial(resolve_engine, engine=engine, compiled=compiled)
        self.scorer = Scorer(self.sampling.temperature, max_tokens_per_row, entropy)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self._step_log = StepLog(self)
        self._current = CurrentRollout(self._step_log)

    def setup(self, stage: str) -> None:
        """Check everything that can be checked before weights are loaded.

        Raises:
            ValueError: if prompts, rewards, sampling and the rollout's cut do not fit together.
        """
        super().setup(stage)
        allowed = self.sampling.allowed_ids(self.tokenizer)
        self.scorer = replace(self.scorer, allowed_tokens=allowed)

    def prompt_sets(
        self, data: PromptGroupDataModule, stage: str
    ) -> dict[str, tuple[PromptSet, SamplingSettings]]:
        """The prompts of a stage and how completions of them are drawn, by the settings' name."""
        sets = super().prompt_sets(data, stage)
        if stage != "fit" or data.train_set is None:
            return sets
        device = self.trainer.strategy.root_device
        engine, _ = self._engine_for(self.policy_settings.load_config(), device=device)
        schedule = self.schedule(data.prompts_per_rollout)
        log.info(schedule.describe())
        most = schedule.most_of_a_group * self.sampling.max_new_tokens
        check_rows(self.scorer.max_tokens_per_row, engine, data.train_set, self.encoder, most)
        return {"sampling": (data.train_set, self.sampling), **sets}

    def configure_model(self) -> None:
        """Load policy and reference, and settle how log-probs are computed."""
        first = self.policy is None
        super().configure_model()
        if first:
            engine, reason = self._engine_for(self.loaded_policy)
            self.scorer = replace(self.scorer, engine=engine)
            log.info("engine: %s (%s)", engine, reason)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own union
        """The optimizer over the trainable parameters, the scheduler stepped every step."""
        return optimization(self.parameters(), self.optimizer, self.lr_scheduler)

    def schedule(self, num_prompts: int) -> RolloutSchedule:
        """How a rollout of that many prompts on this process is worked off.

        Raises:
            ValueError: if it cannot be cut into micro-batches and optimizer steps.
        """
        return RolloutSchedule(
            num_prompts,
            self.group_size,
            self.micro_batch_size,
            self.num_iterations,
            self.trainer.accumulate_grad_batches,
        )

    def steps_per_rollout(self, num_prompts: int) -> int:
        """Training steps made of one rollout; the loader deals its prompts that many times."""
        return self.schedule(num_prompts).num_steps

    def on_train_batch_start(self, batch: PromptBatch, batch_idx: int) -> None:
        """Make a rollout when one is due.

        Raises:
            ValueError: if the batch is of another kind of loader, or the loader has no other
                prompts to give and dynamic sampling needs them.
        """
        check_batch(batch)
        schedule = self.schedule(len(batch.prompts))
        check_steps(batch, schedule)
        self._step_log.clock.start()
        # Lightning's count for loggers, which is one off after some ways of resuming.
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.trainer.global_step
        if self._current.serves(batch, schedule, self.reference is not None, self.trainer):
            return
        maker = RolloutMaker(
            self.collector([self.runner]),
            self.rules,
            self.sampling,
            self.scorer,
            self.gathered,
            self.global_rank,
            self.dynamic_sampling,
        )
        loader = self.trainer.train_dataloader
        seed = self.place_seed("rollout", batch.epoch, batch.rollout)
        with self.trainer.precision_plugin.forward_context():
            self._current.rollout, totals = maker.make(
                self.loaded_policy, self.reference, batch, schedule, seed, self.device, loader
            )
        self._step_log.rollout(totals)

    def training_step(self, batch: PromptBatch, batch_idx: int) -> dict[str, Any]:
        """The loss of one micro-batch, and what callbacks read of it.

        Returns:
            ``loss`` and, detached, ``logprobs``, ``old_logprobs``, ``ref_logprobs`` (or None),
            ``entropy`` (where it is on), ``mask``, ``set_sizes``, ``completion_ids`` [M, T];
            ``advantages``, ``rewards``, ``truncated``, ``lengths``, ``group`` [M];
            ``reward_breakdown`` {name: [M]}; ``prompts``, ``completions``, ``token_texts`` (M);
            ``group_size``; ``kl_coef``.
        """
        rollout = self._current.rollout
        assert rollout is not None, "on_train_batch_start makes the rollout"
        schedule = self.schedule(len(rollout.prompts))
        micro = rollout.micro_batch(batch.step)
        # Seeded by place, so that dropout in an adapter is the same after a resume.
        seed = self.place_seed("dropout", batch.epoch, batch.rollout, batch.step)
        with seeded(seed, self.device):
            scores = self.scorer.update(self.loaded_policy, rollout, micro)
        logprobs, extra = scores.logprobs, scores.extra
        old = logprobs.detach() if micro.old_logprobs is None else micro.old_logprobs
        outputs = self.loss(micro.loss_inputs(logprobs, old, self.importance_cap))
        # Lightning divides by the accumulated micro-batches, so with this factor every optimizer
        # step has the scale of the whole rollout's loss, however it is cut.
        loss = outputs.loss * schedule.num_micro_batches
        gap = mismatch(old, micro.sampler_logprobs, micro.loss_mask, self.importance_cap)
        self._step_log.micro_batch(loss, outputs.metrics | gap, extra, micro.loss_mask)
        if (batch.step + 1) % schedule.accumulate == 0 or self.trainer.is_last_batch:
            self._step_log.flush(len(batch.prompts))
        return {
            "loss": loss,
            "logprobs": logprobs.detach(),
            "old_logprobs": old,
            "kl_coef": self.loss.kl_coef,
            "token_texts": TokenTexts(micro.completion_ids, micro.completion_mask, self.tokenizer),
            **extra,
            **micro.observables(),
        }

    def on_train_batch_end(self, outputs: Any, batch: PromptBatch, batch_idx: int) -> None:  # noqa: ANN401
        """Stop the clock; evaluation, which may follow, is not training time."""
        self._step_log.clock.stop()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the next steps need, see :class:`~lgrpo_lightning.resuming.CurrentRollout`."""
        self._current.save(checkpoint, self.trainer)
        note_origin(checkpoint, self.seed, self.trainer.world_size)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the rollout that was being worked off."""
        self._current.load(checkpoint, self.device)
        if self._trainer is not None and self._trainer.training:
            fit_to_settings(checkpoint, self.trainer, self.seed)

    def on_train_start(self) -> None:
        """Move a rollout from a checkpoint to where the model is by now; start logging anew."""
        self._current.start(self.device)
