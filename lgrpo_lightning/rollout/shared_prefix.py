"""Sampling with each prompt run once: see :mod:`~lgrpo_lightning.rollout.decoding`."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lgrpo_lightning.rollout.completions import Completions
from lgrpo_lightning.rollout.decoding import Decoding, Task
from lgrpo_lightning.rollout.distribution import TokenDistribution, limiter
from lgrpo_lightning.rollout.endings import Endings
from lgrpo_lightning.rollout.noise import row_noise
from lgrpo_lightning.rollout.sampling_mode import sampling_mode
from lgrpo_lightning.rollout.settings import SamplingSettings
from lgrpo_lightning.rollout.support import why_not_shared_prefix


class SharedPrefixSampler:
    """Draws completions with the prompt run once per group and ended rows out of the batch.

    Its memory is allocated at the start of a call: keys and values of ``batch_size`` times
    ``max_new_tokens`` tokens, and of the prompts, once each.

    Args:
        tokenizer: the policy's.
        end_tokens: ids that end a completion.
        batch_size: completions sampled at a time; None for all at once. When some have ended, the
            next start in their place; what is drawn does not depend on it beyond rounding.

    Raises:
        ValueError: if there is no end token, or the batch size is not positive.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        end_tokens: Sequence[int],
        batch_size: int | None = None,
    ) -> None:
        if not end_tokens:
            raise ValueError("end_tokens is empty, so no completion would ever end")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"the sampler's batch_size must be at least 1, got {batch_size}")
        self.tokenizer = tokenizer
        self.end_tokens = list(end_tokens)
        self.batch_size = batch_size

    @torch.no_grad()
    def sample(
        self,
        policy: nn.Module,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        group_size: int,
        settings: SamplingSettings,
        seed: int,
    ) -> Completions:
        """Draw ``group_size`` completions for each prompt, see :class:`Sampler`.

        Raises:
            ValueError: if the policy's attention cannot be served.
        """
        reason = why_not_shared_prefix(policy)
        if reason is not None:
            raise ValueError(
                f"the shared-prefix sampler cannot run this model: {reason}; use sampler: hf"
            )
        device = prompt_ids.device
        rows = len(prompt_ids) * group_size
        allowed = settings.allowed_ids(self.tokenizer)
        pad = self.tokenizer.pad_token_id
        task = Task(
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask.bool(),
            group_size=group_size,
            max_new_tokens=settings.max_new_tokens,
            slots=min(self.batch_size or rows, rows),
            distribution=TokenDistribution(
                settings.temperature,
                limiter(settings),
                None if allowed is None else torch.tensor(allowed, device=device),
            ),
            endings=Endings(self.end_tokens, settings.stop, self.tokenizer, device),
            noise=row_noise(seed, rows, settings.max_new_tokens).to(device),
            pad_token=self.end_tokens[0] if pad is None else int(pad),
        )
        decoding = Decoding(policy, task)
        # A third faster than no_grad. The results are allocated outside, and so can be used freely.
        with sampling_mode(policy), torch.inference_mode():
            decoding.run()
        length = int(decoding.lengths.max())
        shape = (len(prompt_ids), group_size, length)
        mask = torch.arange(length, device=device) < decoding.lengths.unsqueeze(1)
        return Completions(
            ids=decoding.ids[:, :length].reshape(shape),
            mask=mask.view(shape),
            logprobs=decoding.logprobs[:, :length].reshape(shape),
            finished=decoding.finished.view(shape[:2]),
        )
