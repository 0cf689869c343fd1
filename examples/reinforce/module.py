"""REINFORCE with a group's mean reward as baseline, as a LightningModule.

Legend: B words, G completions of a word, M = B·G, T completion tokens.
"""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from .policy import LetterPolicy
from .task import decode, encode, reward


class Reinforce(LightningModule):
    """Teaches a policy to sort. Its steps return what the callbacks read, and only that."""

    def __init__(
        self, group_size: int = 16, eval_completions: int = 4, entropy_bonus: float = 0.02
    ) -> None:
        super().__init__()
        self.policy = LetterPolicy()
        self.group_size = group_size
        self.eval_completions = eval_completions
        self.entropy_bonus = entropy_bonus

    def training_step(self, batch: list[str], batch_idx: int) -> dict[str, Any]:
        """L = −1/N · Σ_i Σ_t [ (r_i − mean r) · ln π(y_t) + c · entropy ]; N tokens in all."""
        size = self.group_size
        words = [word for word in batch for _ in range(size)]
        prompts, ids, mask, texts, rewards = self._play(words)
        baseline = rewards.view(-1, size).mean(dim=1, keepdim=True)
        advantages = (rewards.view(-1, size) - baseline).flatten()
        all_logprobs = self.policy(prompts, ids)  # [M, T, V]
        logprobs = all_logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
        entropy = -(all_logprobs.exp() * all_logprobs).sum(dim=-1)  # [M, T]
        gain = advantages.unsqueeze(1) * logprobs + self.entropy_bonus * entropy
        loss = -(gain * mask).sum() / mask.sum()
        logprobs = logprobs.detach()
        # How many of its group share a completion up to each token, by comparing all pairs.
        groups, masks = ids.view(-1, size, ids.shape[1]), mask.view(-1, size, ids.shape[1])
        alike = groups.unsqueeze(1).eq(groups.unsqueeze(2)) & masks.unsqueeze(1)  # [B, G, G, T]
        set_sizes = alike.cumprod(dim=-1).sum(dim=2).view_as(ids) * mask
        return {
            "loss": loss,
            "logprobs": logprobs,
            "old_logprobs": logprobs,  # on-policy
            "ref_logprobs": None,
            "entropy": entropy.detach(),
            "mask": mask,
            "set_sizes": set_sizes,
            "completion_ids": ids,
            "token_texts": [
                decode(row[keep].tolist()) for row, keep in zip(ids, mask, strict=True)
            ],
            "advantages": advantages,
            "rewards": rewards,
            "group": torch.arange(len(words)) // size,
            "prompts": [f"{word}=" for word in words],
            "completions": texts,
            "lengths": mask.sum(dim=1),
            "truncated": self._truncated(texts),
        }

    def validation_step(self, batch: list[str], batch_idx: int) -> dict[str, Any]:
        """Sample several completions of each word; solved is a reward of 1."""
        samples = self.eval_completions
        _, _, mask, texts, rewards = self._play([word for word in batch for _ in range(samples)])
        rows = [texts[start : start + samples] for start in range(0, len(texts), samples)]
        return {
            "rewards": rewards.view(-1, samples),
            "reward_breakdown": {},
            "lengths": mask.sum(dim=1).view(-1, samples),
            "truncated": self._truncated(texts).view(-1, samples),
            "prompts": [f"{word}=" for word in batch],
            "completions": rows,
            "answers": rows,  # a completion is its answer, so majorities can be counted
            "sources": ["words"] * len(batch),
        }

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=5e-3)

    def _play(self, words: list[str]) -> tuple[Tensor, Tensor, Tensor, list[str], Tensor]:
        """Sample a completion of each word and score it."""
        prompts = torch.tensor([encode(f"{word}=") for word in words], device=self.device)
        ids, mask = self.policy.sample(prompts)
        texts = ["".join(decode(row[keep].tolist())) for row, keep in zip(ids, mask, strict=True)]
        scores = [reward(word, text) for word, text in zip(words, texts, strict=True)]
        return prompts, ids, mask, texts, torch.tensor(scores, device=self.device)

    def _truncated(self, texts: list[str]) -> Tensor:
        return torch.tensor([not text.endswith(".") for text in texts], device=self.device)
