"""Graphs: when they are kept and what they depend on; on CUDA, that they change nothing."""

from types import SimpleNamespace

import pytest
import torch

from lgrpo_lightning.policy import LoRASettings, completion_logprobs
from lgrpo_lightning.policy.loading import add_lora
from lgrpo_lightning.policy.placement import placement
from lgrpo_lightning.rollout import SharedPrefixSampler
from lgrpo_lightning.rollout.cuda_graphs import CannotCaptureError, StepGraphs
from tests.rollout.drawing import assert_same, draw, draw_with
from tests.rollout.tiny import END, EOS, PROMPTS, letters, prompts, tiny_policy


def test_what_a_graph_depends_on():
    policy = add_lora(tiny_policy(), LoRASettings(r=2, alpha=4))
    before = placement(policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1)
    assert placement(policy) == before
    with policy.disable_adapter():
        assert placement(policy) != before
    with torch.autocast("cpu", torch.bfloat16):
        assert placement(policy) != before
    next(policy.parameters()).data = next(policy.parameters()).data.clone()
    assert placement(policy) != before


@pytest.fixture
def captures(monkeypatch):
    """Graphs on a CPU, whose replay runs the step; what was captured is noted here."""
    noted = []

    def capture(self, count, span):
        noted.append((self, count, span))
        self.num_bytes += 1000
        return SimpleNamespace(replay=lambda: self.slots.step(self.policy(), count, span))

    total = SimpleNamespace(total_memory=2**30)
    monkeypatch.setattr(StepGraphs, "_capture", capture)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: total)
    return SimpleNamespace(steps=noted, device=total)


def test_graphs_are_kept_as_long_as_the_weights_stay_where_they_are(captures):
    policy = tiny_policy()
    sampler = SharedPrefixSampler(letters(), [EOS, END], 7, "graphs")
    assert_same(draw_with(sampler, policy), draw(policy, "rows"))
    first = len(captures.steps)
    assert first == len(set(captures.steps)) > 0
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
    for seed, texts in ((1, PROMPTS), (2, ("a", "bcd", "abcdefab"))):  # other lengths, too
        expected = draw(policy, "rows", texts, seed=seed)
        assert_same(draw_with(sampler, policy, texts, seed=seed), expected)
        assert len({owner for owner, _, _ in captures.steps}) == 1
    next(policy.parameters()).data = next(policy.parameters()).data.clone() * 2
    assert_same(draw_with(sampler, policy), draw(policy, "rows"))
    assert len({owner for owner, _, _ in captures.steps}) == 2


def test_other_settings_and_another_policy_have_graphs_of_their_own(captures):
    policy, other = tiny_policy(), tiny_policy(seed=1)
    sampler = SharedPrefixSampler(letters(), [EOS, END], None, "graphs")
    for arguments in ({}, {"temperature": 0.5}, {"stop": ["ab"]}, {"allowed_tokens": ["a", "b"]}):
        for chosen in (policy, other):
            for _ in range(2):
                out = draw_with(sampler, chosen, **arguments)
                assert_same(out, draw(chosen, "rows", **arguments))


def test_a_result_stays_when_the_slots_are_used_again(captures):
    policy = tiny_policy()
    sampler = SharedPrefixSampler(letters(), [EOS, END], None, "graphs")
    out = draw_with(sampler, policy)
    draw_with(sampler, policy, seed=1)
    assert_same(out, draw(policy, "rows"))
    out.logprobs.requires_grad_().sum().backward()


def test_what_takes_more_than_its_share_of_the_memory_is_not_kept(captures):
    policy = tiny_policy()
    sampler = SharedPrefixSampler(letters(), [EOS, END], None, "graphs")
    draw_with(sampler, policy)
    draw_with(sampler, policy, temperature=0.5)
    assert len(sampler._memory._kept) == 2
    captures.device.total_memory = (
        16 * sum(k.num_bytes for k in sampler._memory._kept.values()) - 16
    )
    draw_with(sampler, policy)
    assert len(sampler._memory._kept) == 1
    captures.device.total_memory = 0
    draw_with(sampler, policy)
    assert not sampler._memory._kept


def test_a_model_that_cannot_be_captured_is_sampled_row_by_row(captures, monkeypatch, caplog):
    def capture(self, count, span):
        raise CannotCaptureError("its decoding step waits for results on the CPU")

    monkeypatch.setattr(StepGraphs, "_capture", capture)
    policy = tiny_policy()
    sampler = SharedPrefixSampler(letters(), [EOS, END], None, "graphs")
    for _ in range(2):
        assert_same(draw_with(sampler, policy), draw(policy, "rows"))
    assert len(caplog.records) == 1
    assert "without CUDA graphs, at a fraction of the speed" in caplog.text
    assert "of LlamaForCausalLM" in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gpt_neox", "cohere"])
def test_graphs_give_what_row_by_row_gives(family):
    policy = tiny_policy(family).cuda()
    for arguments in ({"temperature": 0.0}, {"batch_size": 5}, {"stop": ["ab"]}, {"top_p": 0.9}):
        assert_same(draw(policy, "graphs", **arguments), draw(policy, "rows", **arguments))


@pytest.mark.gpu
def test_graphs_are_kept_and_follow_the_weights():
    policy = tiny_policy().cuda()
    sampler = SharedPrefixSampler(letters(), [EOS, END], 7, "graphs")
    draw_with(sampler, policy)
    (kept,) = sampler._memory._kept.values()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
    out = draw_with(sampler, policy, seed=1)
    assert list(sampler._memory._kept.values()) == [kept]
    assert_same(out, draw(policy, "rows", seed=1))
    for parameter in policy.parameters():
        parameter.data = parameter.data.clone() * 0.9
    assert_same(draw_with(sampler, policy, seed=2), draw(policy, "rows", seed=2))
    assert list(sampler._memory._kept.values()) != [kept]


@pytest.mark.gpu
def test_graphs_sample_from_the_adapter():
    pytest.importorskip("peft")
    policy = add_lora(tiny_policy(), LoRASettings(r=2, alpha=4)).cuda()
    sampler = SharedPrefixSampler(letters(), [EOS, END], way="graphs")
    draw_with(sampler, policy)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    out = draw_with(sampler, policy)
    assert_same(out, draw(policy, "rows"))
    with policy.disable_adapter():
        assert_same(draw_with(sampler, policy), draw(policy, "rows"))


@pytest.mark.gpu
def test_graphs_under_autocast_do_not_keep_old_weights():
    policy = tiny_policy().cuda()
    sampler = SharedPrefixSampler(letters(), [EOS, END], way="graphs")
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16):
            out = draw_with(sampler, policy, group_size=6)
        policy.eval()
        tokens = (*(t.cuda() for t in prompts(*PROMPTS)), out.ids, out.mask)
        expected = completion_logprobs(policy, *tokens, engine="padded")
        assert (out.logprobs - expected)[out.mask].abs().mean() < 0.1
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(-1.5)


@pytest.mark.gpu
def test_a_step_that_waits_is_not_captured(caplog):
    policy = tiny_policy().cuda()

    def look(module, args, output):
        output[0].sum().item()

    policy.model.register_forward_hook(look)
    out = draw(policy, "graphs")
    assert "decoding without CUDA graphs" in caplog.text
    assert_same(out, draw(policy, "rows"))
    torch.rand(3, device="cuda")
