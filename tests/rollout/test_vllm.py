"""The vLLM engine: what happens without it; where it is installed, that it follows the policy."""

import importlib.util
import os

import pytest
import torch

from lgrpo_lightning.policy import LoRASettings, completion_logprobs
from lgrpo_lightning.policy.loading import add_lora
from lgrpo_lightning.rollout import (
    SamplingSettings,
    SharedPrefixSampler,
    VLLMSampler,
    check_sampler,
    make_sampler,
)
from tests.rollout.tiny import EOS, PROMPTS, letters, prompts, tiny_policy

installed = importlib.util.find_spec("vllm") is not None
SIZE = {"hidden_size": 128, "head_dim": 32, "max_position_embeddings": 256}


def test_without_vllm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for call in (
        lambda: check_sampler("vllm"),
        lambda: make_sampler("vllm", tiny_policy(), letters(), [EOS]),
        lambda: VLLMSampler(letters(), [EOS]),
    ):
        with pytest.raises(ValueError, match=r"pip install 'lgrpo-lightning\[vllm\]'"):
            call()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"end_tokens": []}, "end_tokens is empty"),
        ({"end_tokens": [EOS], "batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"end_tokens": [EOS], "memory": 0.0}, r"must be in \(0, 1\], got 0.0"),
    ],
)
def test_bad_arguments(arguments, message, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match=message):
        VLLMSampler(letters(), **arguments)


@pytest.mark.slow
@pytest.mark.skipif(not installed, reason="vLLM is not installed")
@pytest.mark.parametrize("kind", ["full", "tied", "lora"])
def test_the_engine_samples_from_the_policy_also_after_an_update(kind):
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    policy = tiny_policy(**SIZE, tie_word_embeddings=kind == "tied").eval()
    if kind == "lora":
        policy = add_lora(policy, LoRASettings(r=2, dropout=0.0)).eval()
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    weights = {name: value.clone() for name, value in policy.state_dict().items()}
    sampler = VLLMSampler(letters(), [EOS], 16)
    state = torch.random.get_rng_state()
    sampler.sync(policy)
    assert torch.equal(torch.random.get_rng_state(), state)
    for update in range(3):
        for settings in (
            SamplingSettings(max_new_tokens=12, temperature=0.8),
            SamplingSettings(max_new_tokens=12, stop=["ab"], allowed_tokens=[*"abc", "<eos>"]),
        ):
            out = sampler.sample(policy, *prompts(*PROMPTS), 4, settings, update)
            expected = completion_logprobs(
                policy,
                *prompts(*PROMPTS),
                out.ids,
                out.mask,
                settings.temperature,
                "padded",
                settings.allowed_ids(letters()),
            )
            torch.testing.assert_close(out.logprobs, expected, atol=1e-2, rtol=0)
            again = sampler.sample(policy, *prompts(*PROMPTS), 4, settings, update)
            assert torch.equal(again.ids, out.ids)
        greedy = SamplingSettings(max_new_tokens=12, temperature=0.0)
        out = sampler.sample(policy, *prompts(*PROMPTS), 1, greedy, 0)
        expected = SharedPrefixSampler(letters(), [EOS]).sample(
            policy, *prompts(*PROMPTS), 1, greedy, 0
        )
        assert torch.equal(out.ids, expected.ids)
        assert torch.equal(out.finished, expected.finished)
        frozen = {name for name, value in policy.named_parameters() if not value.requires_grad}
        for name in frozen:
            torch.testing.assert_close(policy.state_dict()[name], weights[name])
        with torch.no_grad():
            for parameter in trained:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        sampler.sync(policy)
