"""A causal language model in Lightning: loading, evaluation by sampling, checkpoints."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lgrpo_lightning.collect import Collector
from lgrpo_lightning.data import PromptBatch, PromptEncoder, PromptGroupDataModule, PromptSet
from lgrpo_lightning.hyperparameters import coerced
from lgrpo_lightning.policy import (
    PolicySettings,
    Reference,
    load_policy,
    load_tokenizer,
    make_reference,
)
from lgrpo_lightning.policy.compiled_blocks import compile_blocks
from lgrpo_lightning.policy.loading import end_token_ids
from lgrpo_lightning.policy.sharding import data_mesh, placed_like, shard
from lgrpo_lightning.preflight import (
    check_batch,
    check_names,
    check_prompts,
    check_rewards,
    check_state,
    check_strategy,
)
from lgrpo_lightning.rewards import (
    ExtractorLike,
    RewardLike,
    RewardRunner,
    extract_answers,
    load_extractor,
)
from lgrpo_lightning.rollout import (
    Sampler,
    SamplerName,
    SamplingSettings,
    VLLMSettings,
    check_sampler,
    derive_seed,
    make_sampler,
    seeded,
)
from lgrpo_lightning.rollout.assemble import alone

log = logging.getLogger(__name__)

OnRewardError = Literal["raise", "skip"]


class PolicyModule(LightningModule):
    """Holds a policy, and its reference where there is one; evaluates by sampling and scoring.

    ``validation_step``, ``test_step`` and ``predict_step`` return dicts that callbacks read.

    Args:
        policy: the model.
        rewards: reward functions, see :class:`~lgrpo_lightning.rewards.RewardRunner`.
        evaluation: how completions are drawn in validate, test and predict.
        eval_completions: completions per prompt there.
        eval_rewards: reward functions that are run there only; of weight 0 unless they have one.
        answer_extractor: gives the answer in a completion, for maj@k; see
            :func:`~lgrpo_lightning.rewards.load_extractor`.
        needs_reference: keep what the policy was before training.
        sampler: ``"shared_prefix"`` (``_graphs``), ``"hf"``, ``"vllm"`` or ``"auto"``, see
            :func:`~lgrpo_lightning.rollout.make_sampler`.
        sampler_batch_size: completions sampled at a time; None for all of a batch.
        reward_time_limit: seconds a reward function may take for one batch.
        on_reward_error: what a failing reward function does.
        seed: of sampling; None for the seed of ``seed_everything``, or 0 without one.
        vllm: settings of ``"vllm"``.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        policy: PolicySettings,
        rewards: Sequence[RewardLike],
        evaluation: SamplingSettings,
        eval_completions: int,
        eval_rewards: Sequence[RewardLike],
        answer_extractor: ExtractorLike,
        needs_reference: bool,
        sampler: SamplerName,
        sampler_batch_size: int | None,
        reward_time_limit: float,
        on_reward_error: OnRewardError,
        seed: int | None,
        vllm: VLLMSettings,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # the reference is not in checkpoints; see load_state_dict
        if eval_completions < 1:
            raise ValueError(f"eval_completions must be at least 1, got {eval_completions}")
        self.vllm = coerced(VLLMSettings, vllm)
        check_sampler(sampler, self.vllm)
        if sampler_batch_size is not None and sampler_batch_size < 1:
            raise ValueError(f"sampler_batch_size must be at least 1, got {sampler_batch_size}")
        self.policy_settings = coerced(PolicySettings, policy)
        self.evaluation = coerced(SamplingSettings, evaluation)
        if eval_completions > 1 and self.evaluation.temperature == 0:
            raise ValueError(
                f"eval_completions is {eval_completions}, but with evaluation.temperature 0 they "
                "would all be equal; set it above 0, or eval_completions to 1"
            )
        self.eval_completions = eval_completions
        self.needs_reference = needs_reference
        self.sampler_name: SamplerName = sampler
        self.sampler_batch_size = sampler_batch_size
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        self.extract = load_extractor(answer_extractor)
        self.runner = RewardRunner(rewards, reward_time_limit, on_reward_error)
        self.eval_runners = [self.runner]
        if eval_rewards:
            self.eval_runners.append(
                RewardRunner(eval_rewards, reward_time_limit, on_reward_error, default_weight=0.0)
            )
            check_names(*self.eval_runners)
        self._sampler: Sampler | None = None
        self.policy: nn.Module | None = None
        self.reference: Reference | None = None

    def setup(self, stage: str) -> None:
        """Load the tokenizer and check prompts and rewards, before any weights are loaded.

        Raises:
            ValueError: if prompts and completions do not fit the model, or the rewards the data; or
                for a strategy that cannot run the policy.
        """
        check_strategy(self.trainer.strategy, self.policy_settings)
        self.tokenizer = load_tokenizer(self.policy_settings)
        self._sampler = None  # it holds the tokenizer
        self.encoder = PromptEncoder(self.tokenizer)
        self.evaluation.allowed_ids(self.tokenizer)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, PromptGroupDataModule):
            return
        config = self.policy_settings.load_config()
        for name, (prompts, settings) in self.prompt_sets(data, stage).items():
            check_prompts(prompts, self.encoder, config, settings.max_new_tokens, name)
            for runner in [self.runner] if prompts is data.train_set else self.eval_runners:
                check_rewards(prompts, runner)

    def prompt_sets(
        self, data: PromptGroupDataModule, stage: str
    ) -> dict[str, tuple[PromptSet, SamplingSettings]]:
        """The prompts of a stage and how completions of them are drawn, by the settings' name."""
        return {} if data.eval_set is None else {"evaluation": (data.eval_set, self.evaluation)}

    def configure_model(self) -> None:
        """Load the policy and, for training, the reference where one is needed; each once."""
        new: list[nn.Module] = []
        if self.policy is None:
            # A fresh adapter is drawn from the seed, the same on every process.
            with seeded(derive_seed(self.seed, "adapter"), self.device):
                self.policy = load_policy(self.policy_settings)
            new.append(self.policy)
        # There is no trainer while load_from_checkpoint calls this.
        fitting = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if self.needs_reference and self.reference is None and fitting:
            self.reference = self._make_reference(self.policy, bool(new))
            if self.reference.frozen is not None:
                new.append(self.reference.frozen)
        for model in new:
            if self.policy_settings.compile:
                compile_blocks(model)
            if self.device_mesh is not None:
                compute_dtype = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
                shard(model, data_mesh(self.device_mesh), compute_dtype)

    def _make_reference(self, policy: nn.Module, is_new: bool) -> Reference:
        has_adapter = self.policy_settings.lora is not None
        if not is_new and not has_adapter:
            # The policy was evaluated before, maybe with the weights of a checkpoint.
            policy = load_policy(self.policy_settings)
        on_cpu = self.policy_settings.reference_device == "cpu"
        if on_cpu:
            log.info("the reference stays in the CPU's memory; its blocks visit the device")
        return make_reference(policy, has_adapter, on_cpu)

    def teardown(self, stage: str) -> None:
        """End the reward workers; they start again when needed."""
        for runner in self.eval_runners:
            runner.close()

    def validation_step(
        self, batch: PromptBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """Sample with the evaluation settings and score, n completions per prompt.

        Returns:
            ``rewards`` [B, n], ``reward_breakdown`` {name: [B, n]} (NaN where a function did not
            apply), ``lengths``, ``truncated`` [B, n], ``prompts`` (B texts), ``completions`` (B
            lists of n texts), ``sources`` (B names) and, where they are extracted, ``answers`` (B
            lists of n texts or None).
        """
        sampled = self.collector(self.eval_runners).collect(
            self.loaded_policy,
            check_batch(batch),
            self.eval_completions,
            self.evaluation,
            self.place_seed("evaluation", dataloader_idx, batch_idx),
            self.device,
            sync=batch_idx == 0,
        )
        answers = {}
        if self.extract is not None:
            answers["answers"] = extract_answers(self.extract, sampled.texts)
        scores = sampled.scores()
        return {
            "rewards": scores.rewards,
            "reward_breakdown": scores.breakdown,
            "lengths": sampled.completions.lengths,
            "truncated": ~sampled.completions.finished,
            "prompts": sampled.prompts,
            "completions": sampled.texts,
            "sources": batch.sources,
            **answers,
        }

    test_step = validation_step
    predict_step = validation_step

    @property
    def loaded_policy(self) -> nn.Module:
        """The policy, once ``configure_model`` has run."""
        assert self.policy is not None, "configure_model loads the policy"
        return self.policy

    def collector(self, runners: Sequence[RewardRunner]) -> Collector:
        """Samples and scores with this policy's tokenizer and the rewards of these runners."""
        if self._sampler is None:
            self._sampler, reason = make_sampler(
                self.sampler_name,
                self.loaded_policy,
                self.tokenizer,
                end_token_ids(self.loaded_policy, self.tokenizer),
                self.sampler_batch_size,
                self.vllm,
            )
            log.info("sampler %s", reason)
        return Collector(self.tokenizer, self.encoder, self._sampler, runners)

    def gathered(self, value: Tensor) -> Tensor:
        """A tensor of all W processes, [W, *]."""
        if self.trainer.world_size == 1:
            return alone(value)
        return self.trainer.strategy.all_gather(value)

    def place_seed(self, *place: int | str) -> int:
        """The seed of a place in the run, different on every process."""
        return derive_seed(self.seed, self.global_rank, *place)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # noqa: ANN401
        """What training changes: the policy without its reference, with LoRA the adapter alone."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for name in [name for name in state if self._is_frozen(name.removeprefix(prefix))]:
            del state[name]
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:  # noqa: ANN401 - torch's private result type
        """Load what :meth:`state_dict` holds; ``strict`` makes no difference.

        Raises:
            ValueError: if anything but the frozen parameters is missing, anything is unknown or a
                shape differs. Nothing is loaded then.
        """
        own = self.state_dict()
        check_state(state_dict, own, self.policy_settings)
        placed = {name: placed_like(own[name], value) for name, value in state_dict.items()}
        result = super().load_state_dict(placed, strict=False, assign=assign)
        result.missing_keys.clear()  # what is frozen
        return result

    def _is_frozen(self, name: str) -> bool:
        """Whether a weight is no part of a checkpoint: the reference's, or LoRA's frozen base."""
        if name.startswith("reference."):
            return True
        return self.policy_settings.lora is not None and "lora_" not in name
