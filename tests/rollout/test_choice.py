"""Which sampler runs, and why."""

import pytest
import torch

from lgrpo_lightning.policy import LoRASettings
from lgrpo_lightning.policy.loading import add_lora
from lgrpo_lightning.rollout import HuggingFaceSampler, SharedPrefixSampler, make_sampler
from tests.rollout.tiny import EOS, letters, tiny_policy


def make(name, policy):
    return make_sampler(name, policy, letters(), [EOS], 5)


def test_auto_takes_the_shared_prefix_where_it_can():
    sampler, reason = make("auto", tiny_policy())
    assert isinstance(sampler, SharedPrefixSampler)
    assert sampler.batch_size == 5
    assert reason.startswith("shared_prefix: ")
    sampler, _ = make("auto", add_lora(tiny_policy(), LoRASettings(r=2)))
    assert isinstance(sampler, SharedPrefixSampler)


def test_auto_takes_generate_elsewhere_and_says_why():
    sampler, reason = make("auto", tiny_policy("mistral", sliding_window=5))
    assert isinstance(sampler, HuggingFaceSampler)
    assert sampler.batch_size == 5
    assert reason.startswith("hf: the shared-prefix sampler cannot run this model: mistral has")


def test_what_is_asked_for_is_taken():
    assert isinstance(make("hf", tiny_policy())[0], HuggingFaceSampler)
    assert isinstance(make("shared_prefix", tiny_policy())[0], SharedPrefixSampler)


def test_nothing_else_is_taken_instead():
    with pytest.raises(ValueError, match=r"sliding window.*use sampler: hf"):
        make("shared_prefix", tiny_policy("mistral", sliding_window=5))
    with pytest.raises(ValueError, match=r"sampler must be one of .*, got 'generate'"):
        make("generate", tiny_policy())


def test_graphs_have_to_be_asked_for_and_need_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a CUDA device; use sampler: shared_prefix"):
        make("shared_prefix_graphs", tiny_policy())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="needs a policy on CUDA, and it is on cpu"):
        make("shared_prefix_graphs", tiny_policy())
