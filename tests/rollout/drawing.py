"""Completions of the shared-prefix sampler, one way or another, and whether they are the same."""

import torch

from lgrpo_lightning.rollout import SamplingSettings, SharedPrefixSampler
from tests.rollout.tiny import END, EOS, PROMPTS, letters, prompts


def draw(policy, way, texts=PROMPTS, group_size=4, seed=0, batch_size=None, **arguments):
    sampler = SharedPrefixSampler(letters(), [EOS, END], batch_size, way)
    return draw_with(sampler, policy, texts, group_size, seed, **arguments)


def draw_with(sampler, policy, texts=PROMPTS, group_size=4, seed=0, **arguments):
    settings = SamplingSettings(**({"max_new_tokens": 12} | arguments))
    device = next(policy.parameters()).device
    ids, mask = (tensor.to(device) for tensor in prompts(*texts))
    return sampler.sample(policy, ids, mask, group_size, settings, seed)


def assert_same(out, expected, atol=1e-4):
    assert torch.equal(out.ids.cpu(), expected.ids.cpu())
    assert torch.equal(out.mask.cpu(), expected.mask.cpu())
    assert torch.equal(out.finished.cpu(), expected.finished.cpu())
    torch.testing.assert_close(out.logprobs.cpu(), expected.logprobs.cpu(), atol=atol, rtol=0)
