"""A module whose rollouts are fixed by their prompts, so that runs that sample alike can differ."""

import torch

from lgrpo_lightning.collect import Collector
from lgrpo_lightning.module import LambdaGRPO
from lgrpo_lightning.rollout.completions import Completions


class FixedSampler:
    """Completions of few different tokens, so that groups share beginnings, of any length."""

    logprob = -0.7  # it says of every token

    def __init__(self, dtype):
        self.dtype = dtype

    def sync(self, policy):
        pass

    def sample(self, policy, prompt_ids, prompt_mask, group_size, settings, seed):
        length = settings.max_new_tokens
        ids, lengths = [], []
        for prompt, mask in zip(prompt_ids, prompt_mask, strict=True):
            content = sum(place * token for place, token in enumerate(prompt[mask].tolist(), 1))
            generator = torch.Generator().manual_seed(content)
            ids.append(torch.randint(4, 6, (group_size, length), generator=generator))
            lengths.append(torch.randint(1, length + 1, (group_size,), generator=generator))
        lengths = torch.stack(lengths)
        mask = torch.arange(length) < lengths.unsqueeze(-1)
        logprobs = torch.full(mask.shape, self.logprob, dtype=self.dtype) * mask
        return Completions(torch.stack(ids) * mask, mask, logprobs, lengths < length)


class FixedRollouts(LambdaGRPO):
    """Also starts away from its reference, so that the KL term has a gradient."""

    def configure_model(self):
        fresh = self.policy is None
        super().configure_model()
        if fresh:
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for weight in self.loaded_policy.parameters():
                    weight += 0.05 * torch.randn(weight.shape, generator=generator)

    def collector(self, runners):
        collector = super().collector(runners)
        dtype = next(self.loaded_policy.parameters()).dtype
        return Collector(collector.tokenizer, collector.encoder, FixedSampler(dtype), runners)
