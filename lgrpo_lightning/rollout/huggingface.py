"""Sampling with transformers' ``generate``: works for every causal language model."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from lgrpo_lightning.policy.sharding import is_sharded
from lgrpo_lightning.rollout.completions import Completions
from lgrpo_lightning.rollout.distribution import limiter
from lgrpo_lightning.rollout.endings import Endings
from lgrpo_lightning.rollout.sampling_mode import sampling_mode
from lgrpo_lightning.rollout.seeds import seeded
from lgrpo_lightning.rollout.settings import SamplingSettings


class HuggingFaceSampler:
    """Draws completions with ``generate``, the prompt repeated for every completion of its group.

    Nothing of the model's own generation config (temperature, top-k, repetition penalty …) has any
    effect; its end-of-sequence tokens are taken into account through ``end_tokens``.

    Args:
        tokenizer: the policy's.
        end_tokens: ids that end a completion.
        batch_size: completions sampled at a time; None for all at once.

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
        """Draw ``group_size`` completions for each prompt, see :class:`Sampler`."""
        ids = prompt_ids.repeat_interleave(group_size, dim=0)  # [R, P], R = B·G
        mask = prompt_mask.repeat_interleave(group_size, dim=0)
        size = self.batch_size or len(ids)
        starts = range(0, len(ids), size)
        in_step = is_sharded(policy) and torch.distributed.get_world_size() > 1
        # Others may have more rows to sample, and need this process to run the model with them.
        more = _most(len(starts), ids.device) - len(starts) if in_step else 0
        with sampling_mode(policy), seeded(seed, ids.device):
            parts = [
                self._generate(
                    policy, ids[start : start + size], mask[start : start + size], settings, in_step
                )
                for start in starts
            ]
            for _ in range(more):
                self._generate(policy, ids[:1], mask[:1], settings, in_step)
        length = max(part.ids.shape[-1] for part in parts)
        shape = (len(prompt_ids), group_size, length)

        def joined(values: list[Tensor], fill: float) -> Tensor:
            padded = [
                nn.functional.pad(value, (0, length - value.shape[-1]), value=fill)
                for value in values
            ]
            return torch.cat(padded).view(shape)

        return Completions(
            ids=joined([part.ids for part in parts], self._pad_token),
            mask=joined([part.mask for part in parts], False),
            logprobs=joined([part.logprobs for part in parts], 0.0),
            finished=torch.cat([part.finished for part in parts]).view(shape[:2]),
        )

    @property
    def _pad_token(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.end_tokens[0] if pad is None else int(pad)

    def _generate(
        self,
        policy: nn.Module,
        ids: Tensor,
        mask: Tensor,
        settings: SamplingSettings,
        in_step: bool,
    ) -> Completions:
        """Rows of [R, P] to completions of [R, T]; ``in_step`` with the other processes."""
        trace = _Trace(settings, settings.allowed_ids(self.tokenizer))
        endings = Endings(self.end_tokens, settings.stop, self.tokenizer, ids.device)
        ends = _Ends(ids.shape[1], endings, len(ids))
        greedy = settings.temperature == 0
        sequences: Tensor = policy.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask.long(),
            generation_config=GenerationConfig(  # type: ignore[no-untyped-call]
                do_sample=not greedy,
                max_new_tokens=settings.max_new_tokens,
                pad_token_id=self._pad_token,
                # All limits are applied by the trace, which knows the full distribution.
                top_k=None if greedy else 0,
            ),
            logits_processor=LogitsProcessorList([trace]),
            stopping_criteria=StoppingCriteriaList([ends]),
            synced_gpus=in_step,
        )
        sampled = sequences[:, ids.shape[1] :]
        real = torch.arange(sampled.shape[1], device=ids.device) < ends.lengths.unsqueeze(1)
        logprobs = trace.finish(sequences).masked_fill(~real, 0.0)
        return Completions(sampled, real, logprobs, ends.finished)


def _most(count: int, device: torch.device) -> int:
    """The largest count of all processes. A collective."""
    largest = torch.tensor(count, device=device)
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    return int(largest)


class _Trace(LogitsProcessor):
    """Turns logits into what is drawn from, and notes the log-prob of every drawn token."""

    def __init__(self, settings: SamplingSettings, allowed: list[int] | None) -> None:
        self.temperature = settings.temperature or 1.0
        self.allowed = allowed
        self.limit = limiter(settings)
        self._previous: Tensor | None = None  # [R, V]
        self._drawn: list[Tensor] = []  # one [R] per step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._note(input_ids)
        scores = scores.float() / self.temperature
        if self.allowed is not None:
            limited = torch.full_like(scores, -torch.inf)
            limited[:, self.allowed] = scores[:, self.allowed]
            scores = limited
        self._previous = scores.log_softmax(-1)
        return self.limit(self._previous)

    def _note(self, input_ids: Tensor) -> None:
        """The last token of each row was drawn from the distribution of the step before."""
        if self._previous is not None:
            self._drawn.append(self._previous.gather(1, input_ids[:, -1:]).squeeze(1))

    def finish(self, sequences: Tensor) -> Tensor:
        """[R, T] log-probs of all sampled tokens."""
        self._note(sequences)
        return torch.stack(self._drawn, dim=1)


class _Ends(StoppingCriteria):
    """Ends rows at an end token or a stop string, and notes after how many tokens.

    Lengths are noted while sampling since they cannot be told from the tokens afterwards: the pad
    token may be the end token, and a row ended by a stop string has no end token.
    """

    def __init__(self, prompt_length: int, endings: Endings, rows: int) -> None:
        self.prompt_length = prompt_length
        self.endings = endings
        # generate() pads rows that have ended only if some criterion has this attribute
        self.eos_token_id = endings.end_tokens
        self.finished = torch.zeros(rows, dtype=torch.bool, device=endings.end_tokens.device)
        self.lengths = torch.zeros_like(self.finished, dtype=torch.long)

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        self.lengths += ~self.finished
        self.finished |= self.endings.reached(input_ids[:, self.prompt_length :])
        return self.finished
