"""Sampling with each prompt run once.

In one of three ways, with the same completions but for rounding:

    rows     as many rows as run, see :mod:`~lgrpo_lightning.rollout.decoding`
    graphs   fixed slots, a step of which is a CUDA graph, see
             :mod:`~lgrpo_lightning.rollout.slots`; not yet run on a GPU
    slots    the same without graphs, on any device; what the tests of slots run
"""

import logging
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lgrpo_lightning.policy.support import causal_lm
from lgrpo_lightning.rollout.completions import Completions
from lgrpo_lightning.rollout.cuda_graphs import CannotCaptureError
from lgrpo_lightning.rollout.decoding import Decoding
from lgrpo_lightning.rollout.distribution import TokenDistribution, limiter
from lgrpo_lightning.rollout.endings import Endings
from lgrpo_lightning.rollout.noise import row_noise
from lgrpo_lightning.rollout.sampling_mode import sampling_mode
from lgrpo_lightning.rollout.settings import SamplingSettings
from lgrpo_lightning.rollout.slot_memory import SlotMemory
from lgrpo_lightning.rollout.slots import Slots
from lgrpo_lightning.rollout.support import why_not_shared_prefix
from lgrpo_lightning.rollout.task import Task

log = logging.getLogger(__name__)

Way = Literal["rows", "slots", "graphs"]


class SharedPrefixSampler:
    """Draws completions with the prompt run once per group and ended rows out of the batch.

    Its memory is allocated at the start of a call: keys and values of ``batch_size`` times
    ``max_new_tokens`` tokens, and of the prompts, once each.

    Args:
        tokenizer: the policy's.
        end_tokens: ids that end a completion.
        batch_size: completions sampled at a time; None for all at once. When some have ended, the
            next start in their place; what is drawn does not depend on it beyond rounding.
        way: how to decode; ``"graphs"`` on CUDA only.

    Raises:
        ValueError: if there is no end token, or the batch size is not positive.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        end_tokens: Sequence[int],
        batch_size: int | None = None,
        way: Way = "rows",
    ) -> None:
        if not end_tokens:
            raise ValueError("end_tokens is empty, so no completion would ever end")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"the sampler's batch_size must be at least 1, got {batch_size}")
        self.tokenizer = tokenizer
        self.end_tokens = list(end_tokens)
        self.batch_size = batch_size
        self.way = way
        self._memory = SlotMemory()

    def sync(self, policy: nn.Module) -> None:
        """Nothing to do: it runs the policy itself."""

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
        # A third faster than no_grad. The results are allocated outside, and so can be used freely.
        with sampling_mode(policy):
            done = self._run(policy, task, settings)
        # Older releases of torch keep weights that autocast has cast in inference mode.
        torch.clear_autocast_cache()
        length = int(done.lengths[:rows].max())
        shape = (len(prompt_ids), group_size, length)
        mask = torch.arange(length, device=device) < done.lengths[:rows].unsqueeze(1)
        # Copies: slots are used again.
        return Completions(
            ids=done.ids[:rows, :length].clone().view(shape),
            mask=mask.view(shape),
            logprobs=done.logprobs[:rows, :length].clone().view(shape),
            finished=done.finished[:rows].clone().view(shape[:2]),
        )

    def _run(self, policy: nn.Module, task: Task, settings: SamplingSettings) -> Decoding | Slots:
        """Sample all rows; the results are in attributes of what is returned."""
        if self.way != "rows":
            try:
                return self._memory.run(policy, task, repr(settings), self.way == "graphs")
            except CannotCaptureError as error:
                log.warning(
                    "decoding without CUDA graphs, at a fraction of the speed: %s of %s",
                    error,
                    type(causal_lm(policy)).__name__,
                )
                self.way = "rows"
        decoding = Decoding(policy, task)
        with torch.inference_mode():
            decoding.run()
        return decoding
