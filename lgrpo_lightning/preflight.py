"""Checks that find a user's mistake before the first expensive step."""

from collections.abc import Callable, Mapping
from functools import partial

from lightning.pytorch.strategies import (
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
)
from torch import Tensor
from transformers import PretrainedConfig

from lgrpo_lightning.data import PromptBatch, PromptEncoder, PromptLoader, PromptSet
from lgrpo_lightning.policy import Engine, PolicySettings
from lgrpo_lightning.rewards import RewardRunner
from lgrpo_lightning.schedule import RolloutSchedule


def check_strategy(strategy: Strategy, policy: PolicySettings) -> None:
    """Refuse strategies that cannot run the policy, or not with all of its options.

    Raises:
        ValueError: naming the reason and what to use instead.
    """
    if isinstance(strategy, DeepSpeedStrategy | FSDPStrategy):
        raise ValueError(refused_strategy(type(strategy).__name__))
    if not isinstance(strategy, ModelParallelStrategy):
        return
    for option, unfit in {
        "quantization 4bit": policy.quantization is not None,
        "reference_device cpu": policy.reference_device == "cpu",
        "compile": policy.compile,
    }.items():
        if unfit:
            raise ValueError(
                f"policy.{option} does not go with weights that are split over processes "
                f"({type(strategy).__name__}); leave it out, or use the strategy ddp"
            )


def refused_strategy(name: str) -> str:
    """Why DeepSpeed and the older FSDP are refused, and what to use instead."""
    return (
        f"trainer.strategy {name} wraps the whole module, whose weights are then not there when "
        "completions are sampled between training steps; use fsdp2, which shards weights, "
        "gradients and optimizer state too (configs/fsdp2.yaml), or ddp"
    )


def check_prompts(
    prompts: PromptSet,
    encoder: PromptEncoder,
    config: PretrainedConfig,
    max_new_tokens: int,
    settings: str,
) -> None:
    """Refuse prompts that leave no room for a completion in the model's context.

    Args:
        prompts: what completions are drawn for.
        encoder: turns prompts into tokens.
        config: the model's.
        max_new_tokens: longest completion, tokens.
        settings: whose ``max_new_tokens`` it is, for the message.

    Raises:
        ValueError: naming the longest prompt, if it and a completion exceed the context.
    """
    context = getattr(config, "max_position_embeddings", None)
    lengths = encoder.lengths(prompts.prompts)
    row = max(range(len(lengths)), key=lengths.__getitem__)
    if context is not None and lengths[row] + max_new_tokens > context:
        raise ValueError(
            f"row {prompts.indices[row]} of {prompts.sources[row]} has {lengths[row]} prompt "
            f"tokens; with {settings}.max_new_tokens {max_new_tokens} that exceeds the model's "
            f"context of {context} tokens. Lower {settings}.max_new_tokens or leave out long "
            "prompts"
        )


def check_rows(
    max_tokens_per_row: int | None,
    engine: Engine,
    prompts: PromptSet,
    encoder: PromptEncoder,
    completion_tokens: int,
) -> None:
    """Refuse rows that a group might not fit into.

    Args:
        max_tokens_per_row: the tree engine's budget; None for no bound.
        engine: the one that will be used.
        prompts: what completions are drawn for.
        encoder: turns prompts into tokens.
        completion_tokens: the most that the completions of one group in a micro-batch can have.

    Raises:
        ValueError: naming the largest group there can be and what to change.
    """
    if max_tokens_per_row is None:
        return
    if engine == "padded":
        raise ValueError(
            f"max_tokens_per_row is {max_tokens_per_row}, but only the tree engine packs rows and "
            "this run uses the padded one; set max_tokens_per_row to null"
        )
    prompt = max(encoder.lengths(prompts.prompts))
    if prompt + completion_tokens > max_tokens_per_row:
        raise ValueError(
            f"max_tokens_per_row is {max_tokens_per_row}, but a group may come to "
            f"{prompt + completion_tokens} unique tokens: {prompt} of the longest prompt and "
            f"{completion_tokens} of its completions in a micro-batch if they share nothing. Set "
            "it to that or to null, or lower micro_batch_size or sampling.max_new_tokens"
        )


def check_rewards(prompts: PromptSet, runner: RewardRunner) -> None:
    """Have every reward function look at the columns it will be given.

    Raises:
        ValueError: if a column is missing or a reference cannot be used.
    """
    runner.check(prompts.batch(range(len(prompts))).columns)


def check_names(rewards: RewardRunner, eval_rewards: RewardRunner) -> None:
    """Refuse a function for evaluation that has the name of one for training, too.

    Raises:
        ValueError: naming it.
    """
    for name in eval_rewards.names:
        if name in rewards.names:
            raise ValueError(
                f"{name!r} is among rewards and eval_rewards; rewards are run in evaluation, too, "
                "so leave it out of eval_rewards, or give it another name there"
            )


def check_training(
    group_size: int, num_iterations: int, temperature: float, importance_cap: float | None
) -> None:
    """Refuse numbers from which nothing can be learnt.

    Raises:
        ValueError: if one is out of range.
    """
    if group_size < 2:
        raise ValueError(
            f"group_size must be at least 2, got {group_size}: an advantage is relative to the "
            "other completions of the group"
        )
    if num_iterations < 1:
        raise ValueError(f"num_iterations must be at least 1, got {num_iterations}")
    if temperature == 0:
        raise ValueError(
            "sampling.temperature is 0, so all completions of a group would be equal; "
            "set it above 0"
        )
    if importance_cap is not None and not importance_cap >= 1:
        raise ValueError(
            f"importance_cap must be at least 1, the weight of a token where sampler and policy "
            f"agree, got {importance_cap}; null switches the correction off"
        )


def spare_prompts(loader: object, batch: PromptBatch) -> Callable[[int, int], PromptBatch]:
    """What dynamic sampling draws other prompts of a batch's rollout from: (round, how many).

    Raises:
        ValueError: naming what is there instead.
    """
    if not isinstance(loader, PromptLoader):
        raise ValueError(
            f"dynamic_sampling draws other prompts from a PromptLoader, but the training loader "
            f"is {type(loader).__name__}; use PromptGroupDataModule, or leave dynamic_sampling out"
        )
    return partial(loader.spare, batch.epoch, batch.rollout)


def check_state(
    loaded: Mapping[str, Tensor], own: Mapping[str, Tensor], policy: PolicySettings
) -> None:
    """Refuse the weights of another model.

    Args:
        loaded: of a checkpoint.
        own: what a checkpoint of this model would hold.
        policy: which model this is, for the message.

    Raises:
        ValueError: if anything is missing or unknown, or a shape differs.
    """
    missing = sorted(own.keys() - loaded.keys())
    unknown = sorted(loaded.keys() - own.keys())
    changed = [
        f"{name} {list(value.shape)} instead of {list(own[name].shape)}"
        for name, value in loaded.items()
        if name in own and value.shape != own[name].shape
    ]
    if missing or unknown or changed:
        raise ValueError(
            f"the checkpoint is not of this model ({policy.path!r}, "
            f"lora={policy.lora is not None}): it lacks {len(missing)} weights "
            f"{missing[:3]}, has {len(unknown)} unknown ones {unknown[:3]} and {len(changed)} "
            f"of another shape {changed[:3]}"
        )


def check_batch(batch: object) -> PromptBatch:
    """Refuse batches of another kind of loader.

    Raises:
        ValueError: naming what was dealt instead.
    """
    if not isinstance(batch, PromptBatch):
        raise ValueError(
            f"LambdaGRPO trains on PromptBatch, the loader dealt {type(batch).__name__}; use "
            "PromptGroupDataModule, or a loader that yields lgrpo_lightning.data.PromptBatch"
        )
    return batch


def check_steps(batch: PromptBatch, schedule: RolloutSchedule) -> None:
    """Refuse a loader that deals a rollout more or less often than training steps are made of it.

    Raises:
        ValueError: naming both numbers.
    """
    if batch.steps != schedule.num_steps:
        raise ValueError(
            f"the loader deals each rollout {batch.steps} times, but {schedule.describe()}; give "
            f"PromptLoader steps_per_batch={schedule.num_steps}"
        )
