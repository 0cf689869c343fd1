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
    VLLMSettings,
    check_sampler,
    make_sampler,
)
from lgrpo_lightning.rollout.vllm_colocated import ColocatedEngine
from tests.rollout.tiny import EOS, PROMPTS, letters, prompts, tiny_policy

installed = importlib.util.find_spec("vllm") is not None
SIZE = {"hidden_size": 128, "head_dim": 32, "max_position_embeddings": 256}


def test_without_vllm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for call in (
        lambda: check_sampler("vllm"),
        lambda: make_sampler("vllm", tiny_policy(), letters(), [EOS]),
        lambda: VLLMSampler(letters(), [EOS]),
        lambda: check_sampler("vllm", VLLMSettings(memory=0.5)),
    ):
        with pytest.raises(ValueError, match=r"pip install 'lgrpo-lightning\[vllm\]'"):
            call()


def test_a_server_needs_no_installation(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    settings = VLLMSettings(mode="server", urls=["http://127.0.0.1:9"])
    check_sampler("vllm", settings)
    sampler, said = make_sampler("vllm", tiny_policy(), letters(), [EOS], None, settings)
    assert isinstance(sampler, VLLMSampler)
    assert "vllm: it was asked for; on http://127.0.0.1:9, with the policy's weights" in said


def test_settings_of_a_sampler_that_is_not_used_are_refused():
    with pytest.raises(ValueError, match="is for sampler: vllm, but sampler is 'auto'"):
        check_sampler("auto", VLLMSettings(memory=0.5))


def test_sleep_on_a_cpu_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="vLLM does not sleep on a CPU; set it to 0"):
        make_sampler("vllm", tiny_policy(), letters(), [EOS], None, VLLMSettings(sleep_level=1))


class Asleep:
    """An engine's part in :class:`ColocatedEngine`, noted in order."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*arguments, **options):
            self.calls.append((name, options.get("tags") or options.get("level")))

        return call


def test_an_engine_that_slept_is_given_weights_before_its_cache(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    colocated = ColocatedEngine(letters(), None, VLLMSettings(sleep_level=2))
    engine = Asleep()
    monkeypatch.setattr(colocated, "_start", lambda policy: engine)
    colocated.sync(tiny_policy())
    assert colocated.ready
    colocated.sleep()
    assert not colocated.ready
    colocated.sync(tiny_policy())
    assert colocated.ready
    load = [("collective_rpc", None)]
    wake = [("wake_up", ["weights"]), *load, ("wake_up", ["kv_cache"])]
    reset = [("reset_prefix_cache", None)]
    assert engine.calls == [*load, *reset, ("sleep", 2), *wake, *reset]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"end_tokens": []}, "end_tokens is empty"),
        ({"end_tokens": [EOS], "batch_size": 0}, "batch_size must be at least 1, got 0"),
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
    sampler = VLLMSampler(letters(), [EOS], 16, VLLMSettings(engine={"enforce_eager": True}))
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
