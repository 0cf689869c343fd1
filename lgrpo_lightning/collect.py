"""From a batch of prompts to sampled, decoded and scored completions."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lgrpo_lightning.data import PromptBatch, PromptEncoder, completion_messages
from lgrpo_lightning.rewards import RewardRunner, RewardTable
from lgrpo_lightning.rollout import Completions, Sampler, SamplingSettings


@dataclass(frozen=True, eq=False)
class Sampled:
    """B prompts with G completions each, whose rewards may still be under way.

    Attributes:
        prompt_ids: [B, P] long, left-padded.
        prompt_mask: [B, P] bool.
        completions: token ids, masks and log-probs, [B, G, T].
        prompts: B prompts as the model saw them, chat template applied.
        texts: B lists of G completions, special tokens left out.
        scores: waits for the rewards, see :class:`Scores`.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    completions: Completions
    prompts: list[str]
    texts: list[list[str]]
    scores: "Callable[[], Scores]"


@dataclass(frozen=True, eq=False)
class Scores:
    """Rewards of B·G completions.

    Attributes:
        rewards: [B, G] float32, weighted sum over the functions that apply; NaN where none does.
        breakdown: per function [B, G] float32, NaN where it does not apply.
        errors: calls that were skipped, per function.
    """

    rewards: Tensor
    breakdown: dict[str, Tensor]
    errors: dict[str, int]


class Collector:
    """Samples completions and has them scored; training and evaluation share it.

    Args:
        tokenizer: the policy's.
        encoder: turns prompts into tokens.
        sampler: draws completions.
        runners: run the reward functions; all their rewards add up.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        encoder: PromptEncoder,
        sampler: Sampler,
        runners: Sequence[RewardRunner],
    ) -> None:
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.sampler = sampler
        self.runners = runners

    def collect(
        self,
        policy: nn.Module,
        batch: PromptBatch,
        group_size: int,
        settings: SamplingSettings,
        seed: int,
        device: torch.device,
        sync: bool = True,
    ) -> Sampled:
        """Sample G completions per prompt and start scoring them in the background.

        Args:
            policy: what is sampled from.
            batch: B prompts.
            group_size: G.
            settings: how completions are drawn.
            seed: of the completions.
            device: where tensors go.
            sync: whether the policy may have changed since the last call.
        """
        if sync:
            self.sampler.sync(policy)
        encoded = self.encoder(batch.prompts, batch.indices)
        prompt_ids, prompt_mask = encoded.prompt_ids.to(device), encoded.prompt_mask.to(device)
        completions = self.sampler.sample(
            policy, prompt_ids, prompt_mask, group_size, settings, seed
        )
        token_ids = [
            ids[:length]
            for ids, length in zip(
                completions.ids.flatten(0, 1).tolist(),
                completions.lengths.flatten().tolist(),
                strict=True,
            )
        ]
        texts = self.tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        return Sampled(
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask,
            completions=completions,
            prompts=encoded.texts,
            texts=[texts[start : start + group_size] for start in range(0, len(texts), group_size)],
            scores=self._score(batch, token_ids, texts, group_size, device),
        )

    def _score(
        self,
        batch: PromptBatch,
        token_ids: list[list[int]],
        texts: list[str],
        group_size: int,
        device: torch.device,
    ) -> Callable[[], Scores]:
        def repeated(values: list[Any]) -> list[Any]:
            return [value for value in values for _ in range(group_size)]

        prompts = repeated(batch.prompts)
        completions = [
            text if isinstance(prompt, str) else completion_messages(text)
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        columns = {name: repeated(values) for name, values in batch.columns.items()}
        pending = [
            runner.submit(prompts, completions, token_ids, columns) for runner in self.runners
        ]

        def tensor(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device).view(-1, group_size)

        def wait() -> Scores:
            table = functools.reduce(RewardTable.joined, [each.result() for each in pending])
            return Scores(
                rewards=tensor(table.total),
                breakdown={name: tensor(values) for name, values in table.per_function.items()},
                errors=table.errors,
            )

        return wait
