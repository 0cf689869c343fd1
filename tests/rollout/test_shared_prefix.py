"""The shared-prefix sampler against generate, against the update, and against itself."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrpo_lightning.policy import completion_logprobs
from lgrpo_lightning.rollout import HuggingFaceSampler, SamplingSettings, SharedPrefixSampler
from lgrpo_lightning.rollout.shared_attention import IMPLEMENTATION
from lgrpo_lightning.rollout.support import SHARED_PREFIX_FAMILIES, why_not_shared_prefix
from tests.rollout.tiny import END, EOS, PROMPTS, letters, prompts, tiny_policy


def draw(policy, texts=PROMPTS, group_size=4, seed=0, batch_size=None, **settings):
    settings = SamplingSettings(**({"max_new_tokens": 12} | settings))
    sampler = SharedPrefixSampler(letters(), [EOS, END], batch_size)
    return sampler.sample(policy, *prompts(*texts), group_size, settings, seed)


def generated(policy, texts, group_size, **arguments):
    sampler = HuggingFaceSampler(letters(), [EOS, END])
    settings = SamplingSettings(**({"max_new_tokens": 12} | arguments))
    return sampler.sample(policy, *prompts(*texts), group_size, settings, 0)


@pytest.mark.parametrize("family", sorted(SHARED_PREFIX_FAMILIES))
def test_greedy_equals_generate(family):
    policy = tiny_policy(family)
    for texts, group_size, length in ((PROMPTS, 2, 12), (("abcdefg",), 3, 30), (("a", "b"), 1, 1)):
        expected = generated(policy, texts, group_size, temperature=0.0, max_new_tokens=length)
        out = draw(policy, texts, group_size, temperature=0.0, max_new_tokens=length)
        assert torch.equal(out.ids, expected.ids)
        assert torch.equal(out.mask, expected.mask)
        assert torch.equal(out.finished, expected.finished)
        torch.testing.assert_close(out.logprobs, expected.logprobs, atol=1e-4, rtol=0)


@settings(max_examples=15, deadline=None)
@given(
    texts=st.lists(st.text("abcdef", min_size=1, max_size=9), min_size=1, max_size=5),
    group_size=st.integers(1, 3),
    batch_size=st.integers(1, 12),
    length=st.integers(1, 20),
)
def test_greedy_equals_generate_in_any_batch(texts, group_size, batch_size, length):
    policy = tiny_policy()
    arguments = {"temperature": 0.0, "max_new_tokens": length}
    expected = generated(policy, texts, group_size, **arguments)
    out = draw(policy, texts, group_size, batch_size=batch_size, **arguments)
    assert torch.equal(out.ids, expected.ids)
    assert torch.equal(out.mask, expected.mask)
    torch.testing.assert_close(out.logprobs, expected.logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", sorted(SHARED_PREFIX_FAMILIES))
def test_logprobs_equal_the_padded_engine(family):
    policy = tiny_policy(family)
    out = draw(policy, group_size=6, temperature=0.8, batch_size=7)
    policy.eval()
    expected = completion_logprobs(
        policy, *prompts(*PROMPTS), out.ids, out.mask, 0.8, engine="padded"
    )
    torch.testing.assert_close(out.logprobs, expected, atol=1e-4, rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text("abcdef", min_size=1, max_size=9), min_size=1, max_size=5),
    group_size=st.integers(1, 5),
    batch_size=st.integers(1, 12),
    length=st.integers(1, 15),
    stop=st.sampled_from([[], ["ab"], ["b", "cd"]]),
)
def test_a_completion_does_not_depend_on_the_rows_beside_it(
    texts, group_size, batch_size, length, stop
):
    policy = tiny_policy()
    arguments = {"max_new_tokens": length, "stop": stop}
    together = draw(policy, texts, group_size, **arguments)
    apart = draw(policy, texts, group_size, batch_size=batch_size, **arguments)
    assert torch.equal(together.ids, apart.ids)
    assert torch.equal(together.mask, apart.mask)
    assert torch.equal(together.finished, apart.finished)
    torch.testing.assert_close(together.logprobs, apart.logprobs, atol=1e-4, rtol=0)
    alone = draw(policy, texts[:1], group_size, **arguments)
    assert torch.equal(alone.ids[0][alone.mask[0]], together.ids[0][together.mask[0]])


def test_rows_of_a_group_and_equal_prompts_differ():
    out = draw(tiny_policy(), ["abc", "abc"], 8)
    assert len({tuple(row) for row in out.ids.flatten(0, 1).tolist()}) > 12


def test_seeds_differ():
    policy = tiny_policy()
    first, second = draw(policy, group_size=16, seed=1), draw(policy, group_size=16, seed=2)
    assert (first.ids[:, :, 0] != second.ids[:, :, 0]).float().mean() > 0.3


@pytest.mark.parametrize(
    "limits", [{}, {"temperature": 0.6}, {"top_p": 0.7}, {"top_k": 4}, {"min_p": 0.1}]
)
def test_first_tokens_and_pairs_have_the_right_distribution(limits):
    # 10,000 draws; chi-square over tokens, and over the second token given the first.
    policy = tiny_policy()
    out = draw(policy, ["abc"], 10_000, max_new_tokens=2, allowed_tokens=[*"abcdefgh"], **limits)
    allowed = letters().convert_tokens_to_ids(list("abcdefgh"))
    first, second = out.ids[0, :, 0], out.ids[0, :, 1]
    prompt = prompts("abc")[0]
    assert_drawn_from(first, limited(policy, prompt, allowed, limits))
    for token in allowed:
        chosen = first == token
        if chosen.sum() >= 500:
            longer = torch.cat([prompt, torch.tensor([[token]])], dim=1)
            assert_drawn_from(second[chosen], limited(policy, longer, allowed, limits))


def limited(policy, ids, allowed, limits):
    """Probabilities of all tokens after ``ids``, by sorting; computed apart from the sampler."""
    with torch.no_grad():
        logits = policy(ids, use_cache=False).logits[0, -1] / limits.get("temperature", 1.0)
    keep = torch.zeros_like(logits, dtype=torch.bool)
    keep[allowed] = True
    p = logits.masked_fill(~keep, -torch.inf).softmax(-1).double()
    order = p.argsort(descending=True)
    sums = p[order].cumsum(0)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    if "top_k" in limits:
        p = p.masked_fill(rank >= limits["top_k"], 0)
    if "top_p" in limits:
        p = p.masked_fill(rank > int((sums < limits["top_p"]).sum()), 0)
    if "min_p" in limits:
        p = p.masked_fill(p < limits["min_p"] * p.max(), 0)
    return p / p.sum()


def assert_drawn_from(tokens, probabilities):
    counts = torch.bincount(tokens, minlength=len(probabilities)).double()
    assert (counts[probabilities == 0] == 0).all()
    expected = probabilities * len(tokens)
    usual = expected >= 5
    statistic = ((counts - expected)[usual].square() / expected[usual]).sum()
    freedom = max(int(usual.sum()) - 1, 1)
    # Wilson–Hilferty: (χ²/k)^⅓ is nearly normal; 4 deviations, seed fixed.
    deviation = (2 / (9 * freedom)) ** 0.5
    assert (statistic / freedom) ** (1 / 3) < 1 - 2 / (9 * freedom) + 4 * deviation


def test_each_prompt_is_run_once_and_ended_rows_leave():
    policy = tiny_policy()
    runs = []
    policy.register_forward_pre_hook(
        lambda module, args, kwargs: runs.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    out = draw(policy, group_size=8)
    assert runs[0] == (3, 5)  # the prompts
    running = [rows for rows, length in runs[1:]]
    assert all(length == 1 for _, length in runs[1:])
    assert running == sorted(running, reverse=True)
    assert sum(running) == int(out.mask.sum()) - 24  # the first tokens come from the prompts' pass


def test_waiting_rows_start_when_a_group_of_slots_is_free():
    policy = tiny_policy()
    runs = []
    policy.register_forward_pre_hook(
        lambda module, args, kwargs: runs.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    out = draw(policy, ["abc", "abd", "abe", "abf"], 4, batch_size=8, max_new_tokens=30)
    prefills = [rows for rows, length in runs if length > 1]
    assert prefills[0] == 2
    assert sum(prefills) == 4
    assert max(rows for rows, length in runs if length == 1) <= 8
    steps = sum(1 for _, length in runs if length == 1)
    longest = out.lengths.max()
    assert steps < 2 * longest  # two waves of two groups would take up to that many


def test_bfloat16_policy_is_sampled_from():
    policy = tiny_policy().to(torch.bfloat16)
    out = draw(policy, group_size=6)
    policy.eval()
    expected = completion_logprobs(policy, *prompts(*PROMPTS), out.ids, out.mask, engine="padded")
    assert out.logprobs.dtype == torch.float32
    assert (out.logprobs - expected)[out.mask].abs().mean() < 0.05


def test_under_autocast():
    policy = tiny_policy()
    with torch.autocast("cpu", torch.bfloat16):
        out = draw(policy, group_size=6)
    policy.eval()
    expected = completion_logprobs(policy, *prompts(*PROMPTS), out.ids, out.mask, engine="padded")
    assert (out.logprobs - expected)[out.mask].abs().mean() < 0.1


@pytest.mark.parametrize("autocast", [False, True])
def test_the_policy_can_be_trained_afterwards(autocast):
    # Frequencies of dynamic rotary embeddings are computed anew, and kept, while sampling.
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    policy = tiny_policy(max_position_embeddings=8, rope_parameters=rope)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = draw(policy, max_new_tokens=20)
        logprobs = completion_logprobs(policy, *prompts(*PROMPTS), out.ids, out.mask, 1.0, "padded")
    (logprobs * out.logprobs).sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())
    out.logprobs.add_(1.0)


def test_the_attention_is_put_back_also_after_an_error(monkeypatch):
    policy = tiny_policy()
    before = policy.config._attn_implementation
    draw(policy)
    assert policy.config._attn_implementation == before
    original = policy.forward

    def fail(*args, **kwargs):
        if kwargs["input_ids"].shape[1] == 1:
            assert policy.config._attn_implementation == IMPLEMENTATION
            raise RuntimeError("out of memory")
        return original(*args, **kwargs)

    monkeypatch.setattr(policy, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        draw(policy)
    assert policy.config._attn_implementation == before


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("mistral", {"sliding_window": 5}, "see the last 5 tokens only"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4}, "sliding window"),
        ("gemma2", {"query_pre_attn_scalar": 4}, "sliding window|families"),
        ("bloom", {"n_head": 4, "hidden_size": 16, "n_layer": 2}, "ALiBi"),
        ("olmo", {}, "not among the families it is tested with"),
    ],
)
def test_models_that_are_refused(family, changes, reason):
    policy = tiny_policy(family, **changes)
    with pytest.raises(ValueError, match=reason) as error:
        draw(policy)
    assert "use sampler: hf" in str(error.value)


def test_a_window_longer_than_every_context_is_no_window():
    policy = tiny_policy("mistral", sliding_window=64)
    assert why_not_shared_prefix(policy) is None
    expected = generated(policy, PROMPTS, 2, temperature=0.0)
    assert torch.equal(draw(policy, group_size=2, temperature=0.0).ids, expected.ids)


def test_a_model_that_ignores_the_attention_is_found_out(monkeypatch):
    policy = tiny_policy()
    policy.config._attn_implementation = "eager"
    for layer in policy.model.layers:
        layer.self_attn.config = type(policy.config)(**policy.config.to_dict())
        layer.self_attn.config._attn_implementation = "eager"
    with pytest.raises(ValueError, match="called the shared-prefix attention 0 times"):
        draw(policy)


def test_nothing_is_warned_of(caplog, recwarn):
    with caplog.at_level(logging.WARNING):
        draw(tiny_policy())
    assert not caplog.records
    assert not [str(warning.message) for warning in recwarn]
