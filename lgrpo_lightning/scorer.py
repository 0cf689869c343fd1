"""Log-probs of a rollout's completions with the settings of the run."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lgrpo_lightning.policy import Engine, row_scores
from lgrpo_lightning.policy.scores import TokenScores
from lgrpo_lightning.rollout import Rollout
from lgrpo_lightning.rollout.record import MicroBatch


@dataclass(frozen=True)
class Scorer:
    """Computes log-probs of the distribution that is sampled from.

    Args:
        temperature: τ of sampling.
        max_tokens_per_row: see :func:`~lgrpo_lightning.policy.row_scores`.
        entropy: also compute entropies in updates.
        engine: how the model is run.
        allowed_tokens: ids of the tokens that can be drawn; None for all.
    """

    temperature: float
    max_tokens_per_row: int | None = None
    entropy: bool = False
    engine: Engine = "tree"
    allowed_tokens: list[int] | None = None

    def __call__(
        self,
        model: nn.Module,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        completion_ids: Tensor,
        completion_mask: Tensor,
        groups: Tensor,
    ) -> TokenScores:
        """[M, T], see :func:`~lgrpo_lightning.policy.row_scores`."""
        return row_scores(
            model,
            prompt_ids,
            prompt_mask,
            completion_ids,
            completion_mask,
            groups,
            self.temperature,
            self.engine,
            self.allowed_tokens,
            self.max_tokens_per_row,
            self.entropy,
        )

    def update(self, policy: nn.Module, rollout: Rollout, micro: MicroBatch) -> TokenScores:
        """[M, T], with gradient, of one micro-batch of a rollout."""
        return self(
            policy,
            rollout.prompt_ids,
            rollout.prompt_mask,
            micro.completion_ids,
            micro.completion_mask,
            micro.groups,
        )

    @torch.no_grad()
    def whole(
        self,
        model: nn.Module,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        completion_ids: Tensor,
        completion_mask: Tensor,
        micro_batches: Tensor,
    ) -> Tensor:
        """Log-probs of whole groups without gradient or dropout, one micro-batch at a time.

        Args:
            model: policy or reference; left in the mode it was in.
            prompt_ids: [B, P] long, left-padded.
            prompt_mask: [B, P] bool.
            completion_ids: [B, G, T] long, right-padded.
            completion_mask: [B, G, T] bool.
            micro_batches: [K, M] long, the completions of each, counted over B·G.

        Returns:
            [B, G, T], 0 at padding.
        """
        ids, mask = completion_ids.flatten(0, 1), completion_mask.flatten(0, 1)
        groups = micro_batches // completion_ids.shape[1]
        training = model.training
        model.eval()  # without dropout, as when sampling
        alone = replace(self, entropy=False)
        parts = [
            alone(model, prompt_ids, prompt_mask, ids[rows], mask[rows], of).logprobs
            for rows, of in zip(micro_batches, groups, strict=True)
        ]
        model.train(training)
        logprobs = torch.empty_like(torch.cat(parts))
        logprobs[micro_batches.flatten()] = torch.cat(parts)
        return logprobs.view(completion_ids.shape)
