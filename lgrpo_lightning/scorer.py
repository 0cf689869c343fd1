"""Log-probs of a rollout's completions with the settings of the run."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lgrpo_lightning.policy import Engine, row_logprobs


@dataclass(frozen=True)
class Scorer:
    """Computes log-probs of the distribution that is sampled from.

    Args:
        engine: how the model is run.
        temperature: τ of sampling.
        allowed_tokens: ids of the tokens that can be drawn; None for all.
    """

    engine: Engine
    temperature: float
    allowed_tokens: list[int] | None

    def __call__(
        self,
        model: nn.Module,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        completion_ids: Tensor,
        completion_mask: Tensor,
        groups: Tensor,
    ) -> Tensor:
        """[M, T], see :func:`~lgrpo_lightning.policy.row_logprobs`."""
        return row_logprobs(
            model,
            prompt_ids,
            prompt_mask,
            completion_ids,
            completion_mask,
            groups,
            self.temperature,
            self.engine,
            self.allowed_tokens,
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
        parts = [
            self(model, prompt_ids, prompt_mask, ids[rows], mask[rows], of)
            for rows, of in zip(micro_batches, groups, strict=True)
        ]
        model.train(training)
        logprobs = torch.empty_like(torch.cat(parts))
        logprobs[micro_batches.flatten()] = torch.cat(parts)
        return logprobs.view(completion_ids.shape)
