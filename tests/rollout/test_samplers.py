"""What holds for every sampler: the distribution, the ends, and what it leaves behind."""

import pytest
import torch

from lgrpo_lightning.policy import LoRASettings, completion_logprobs
from lgrpo_lightning.policy.loading import add_lora
from lgrpo_lightning.rollout import HuggingFaceSampler, SamplingSettings, SharedPrefixSampler
from tests.rollout.tiny import END, EOS, PAD, PROMPTS, VOCABULARY, letters, prompts, tiny_policy


@pytest.fixture(params=[HuggingFaceSampler, SharedPrefixSampler])
def kind(request):
    return request.param


@pytest.fixture
def sample(kind):
    def draw(policy, texts=PROMPTS, group_size=4, seed=0, ends=(EOS,), batch_size=None, **settings):
        settings = SamplingSettings(**({"max_new_tokens": 12} | settings))
        sampler = kind(letters(), ends, batch_size)
        return sampler.sample(policy, *prompts(*texts), group_size, settings, seed)

    return draw


def same(first, second) -> bool:
    return torch.equal(first.ids, second.ids) and torch.equal(first.mask, second.mask)


def test_shapes_padding_and_ends(sample):
    out = sample(tiny_policy(), group_size=8)
    assert out.ids.shape == out.mask.shape == out.logprobs.shape
    assert out.ids.shape[:2] == out.finished.shape == (3, 8)
    assert out.ids.shape[2] == out.lengths.max()
    assert (out.lengths >= 1).all()
    last = out.ids.gather(2, out.lengths.unsqueeze(2) - 1).squeeze(2)
    assert torch.equal(last == EOS, out.finished)
    assert out.finished.any()
    assert not out.finished.all()
    assert (out.lengths[~out.finished] == 12).all()
    assert (out.ids[~out.mask] == PAD).all()
    assert (out.logprobs[~out.mask] == 0).all()
    assert (out.ids[out.mask] == EOS).sum() == out.finished.sum()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("allowed", [None, ["a", "b", "c", "<eos>"]])
def test_logprobs_are_those_of_the_update(sample, temperature, allowed):
    policy = tiny_policy()
    out = sample(policy, temperature=temperature, allowed_tokens=allowed)
    ids = None if allowed is None else [letters().convert_tokens_to_ids(word) for word in allowed]
    expected = completion_logprobs(
        policy, *prompts(*PROMPTS), out.ids, out.mask, temperature, "padded", ids
    )
    torch.testing.assert_close(out.logprobs, expected, atol=1e-5, rtol=0)


def test_limits_do_not_change_the_logprobs(sample):
    policy = tiny_policy()
    out = sample(policy, top_k=5, top_p=0.8, min_p=0.05)
    expected = completion_logprobs(policy, *prompts(*PROMPTS), out.ids, out.mask, engine="padded")
    torch.testing.assert_close(out.logprobs, expected, atol=1e-5, rtol=0)


def next_token_probabilities(policy, text):
    with torch.no_grad():
        return policy(prompts(text)[0], use_cache=False).logits[0, -1].softmax(-1)


def test_top_k_draws_the_most_likely_tokens_only(sample):
    policy = tiny_policy()
    out = sample(policy, ["abc"], 200, max_new_tokens=1, top_k=3)
    best = next_token_probabilities(policy, "abc").topk(3).indices
    assert set(out.ids.flatten().tolist()) == set(best.tolist())


def test_top_p_draws_the_smallest_sufficient_set_only(sample):
    policy = tiny_policy()
    out = sample(policy, ["abc"], 400, max_new_tokens=1, top_p=0.6)
    probabilities, order = next_token_probabilities(policy, "abc").sort(descending=True)
    needed = int((probabilities.cumsum(0) < 0.6).sum()) + 1
    assert set(out.ids.flatten().tolist()) == set(order[:needed].tolist())


def test_min_p_drops_unlikely_tokens(sample):
    policy = tiny_policy()
    out = sample(policy, ["abc"], 400, max_new_tokens=1, min_p=0.3)
    probabilities = next_token_probabilities(policy, "abc")
    kept = (probabilities >= 0.3 * probabilities.max()).nonzero().flatten()
    assert set(out.ids.flatten().tolist()) == set(kept.tolist())


def test_the_released_generation_config_has_no_effect(sample):
    policy = tiny_policy()
    expected = sample(policy)
    released = policy.generation_config
    released.update(
        do_sample=True,
        top_k=1,
        temperature=0.1,
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        min_new_tokens=12,
        max_length=3,
        suppress_tokens=[3, 4, 5],
    )
    out = sample(policy)
    assert same(out, expected)
    assert policy.generation_config is released
    assert released.top_k == 1


def test_pad_may_be_the_end_token(sample, kind):
    policy = tiny_policy()
    tokenizer = letters()
    tokenizer.pad_token = "<eos>"
    settings = SamplingSettings(max_new_tokens=12)
    out = kind(tokenizer, [EOS]).sample(policy, *prompts(*PROMPTS), 8, settings, 0)
    expected = sample(policy, group_size=8)
    assert torch.equal(out.mask, expected.mask)
    assert torch.equal(out.ids[out.mask], expected.ids[expected.mask])
    assert (out.ids[~out.mask] == EOS).all()


def test_several_end_tokens(sample):
    out = sample(tiny_policy(), group_size=16, ends=(EOS, END))
    last = out.ids.gather(2, out.lengths.unsqueeze(2) - 1).squeeze(2)
    assert torch.equal((last == EOS) | (last == END), out.finished)
    assert (last == EOS).any()
    assert (last == END).any()


@pytest.mark.parametrize("stop", ["ab", "bc", "f"])
def test_a_stop_string_ends_where_it_is_first_complete(sample, stop):
    out = sample(
        tiny_policy(),
        group_size=24,
        stop=[stop],
        allowed_tokens=[*"abcf", "ab", "bc"],
        max_new_tokens=8,
    )
    assert out.finished.any()
    for ids, mask, finished in zip(
        out.ids.flatten(0, 1), out.mask.flatten(0, 1), out.finished.flatten(), strict=True
    ):
        words = letters().convert_ids_to_tokens(ids[mask].tolist())
        assert (stop in "".join(words)) == bool(finished)
        assert stop not in "".join(words[:-1])


def test_a_stop_string_in_the_prompt_ends_nothing(sample):
    # The last prompt even ends with the beginning of the string, so "b" would complete it.
    out = sample(
        tiny_policy(),
        ["ab", "abc", "ca"],
        16,
        stop=["ab"],
        allowed_tokens=["b", "c"],
        max_new_tokens=4,
    )
    assert not out.finished.any()
    assert (out.lengths == 4).all()


def test_a_completion_may_be_the_end_token_alone(sample):
    out = sample(tiny_policy(), allowed_tokens=["<eos>"])
    assert (out.lengths == 1).all()
    assert out.finished.all()
    assert (out.logprobs.abs() < 1e-6).all()


def test_only_allowed_tokens_are_drawn(sample):
    out = sample(tiny_policy(), group_size=16, allowed_tokens=["a", 5, "<eos>"])
    assert set(out.ids[out.mask].tolist()) <= {letters().convert_tokens_to_ids("a"), 5, EOS}


def test_seed_fixes_the_completions_and_leaves_the_global_state(sample):
    policy = tiny_policy()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = sample(policy, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(5)
    assert same(first, sample(policy, seed=1))
    assert not same(first, sample(policy, seed=2))


def test_no_dropout_while_sampling_and_modes_restored(sample):
    policy = tiny_policy("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    policy.transformer.h[0].eval()
    modes = [module.training for module in policy.modules()]
    first, second = sample(policy), sample(policy)
    assert [module.training for module in policy.modules()] == modes
    torch.testing.assert_close(first.logprobs, second.logprobs, atol=0, rtol=0)
    policy.eval()
    assert same(first, sample(policy))


def test_modes_and_config_restored_after_an_error(sample, monkeypatch):
    policy = tiny_policy()
    released = policy.generation_config

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(policy, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        sample(policy)
    assert policy.training
    assert policy.generation_config is released


@pytest.mark.parametrize("batch_size", [1, 5, 12, 100])
def test_batch_size_splits_without_changing_greedy_completions(sample, batch_size):
    policy = tiny_policy()
    expected = sample(policy, temperature=0.0)
    out = sample(policy, temperature=0.0, batch_size=batch_size)
    assert same(out, expected)
    assert torch.equal(out.finished, expected.finished)
    torch.testing.assert_close(out.logprobs, expected.logprobs)


def test_batch_size_limits_the_rows_of_a_pass(sample):
    policy = tiny_policy()
    rows = []
    policy.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    out = sample(policy, batch_size=5)
    assert max(rows) == 5
    assert out.ids.shape[:2] == (3, 4)


def test_greedy_takes_the_most_likely_token_whatever_the_padding(sample):
    policy = tiny_policy()
    out = sample(policy, group_size=2, temperature=0.0, max_new_tokens=6)
    for prompt, text in enumerate(PROMPTS):
        ids = prompts(text)[0]
        for step in range(int(out.lengths[prompt, 0])):
            with torch.no_grad():
                best = policy(ids, use_cache=False).logits[0, -1].argmax()
            assert out.ids[prompt, :, step].tolist() == [best, best]
            ids = torch.cat([ids, best.view(1, 1)], dim=1)


def lora_policy(**changes):
    policy = add_lora(tiny_policy(**changes), LoRASettings(r=2, alpha=4, dropout=0.5))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    return policy


def test_the_adapter_is_sampled_from(sample):
    policy = lora_policy()
    policy.get_base_model().generation_config.update(top_k=1, do_sample=True)
    policy.generation_config = policy.get_base_model().generation_config
    out = sample(policy)
    policy.eval()  # without the adapter's dropout
    expected = completion_logprobs(policy, *prompts(*PROMPTS), out.ids, out.mask, engine="padded")
    torch.testing.assert_close(out.logprobs, expected, atol=1e-5, rtol=0)
    with policy.disable_adapter():
        base = completion_logprobs(policy, *prompts(*PROMPTS), out.ids, out.mask, engine="padded")
    assert (out.logprobs - base).abs().max() > 0.1
    assert len(out.ids[:, :, 0].unique()) > 3  # the released top_k=1 had no effect


@pytest.mark.parametrize("lora", [False, True])
def test_gradient_checkpointing_does_not_cost_the_cache(sample, lora):
    policy = lora_policy() if lora else tiny_policy()
    inner = policy.get_base_model() if lora else policy
    inner.gradient_checkpointing_enable({"use_reentrant": False})
    expected_lengths = [5] + [1] * 11
    lengths = []
    inner.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    sample(policy, allowed_tokens=["a", "b"])
    assert lengths == expected_lengths
    assert policy.training


def test_a_tokenizer_without_pad_token_pads_with_the_end_token(sample, kind):
    tokenizer = letters()
    tokenizer.pad_token = None
    settings = SamplingSettings(max_new_tokens=12)
    out = kind(tokenizer, [END]).sample(tiny_policy(), *prompts(*PROMPTS), 16, settings, 0)
    assert (out.ids[~out.mask] == END).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"end_tokens": []}, "end_tokens is empty"),
        ({"end_tokens": [EOS], "batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_arguments(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(letters(), **arguments)


def test_nothing_is_differentiable(sample):
    out = sample(tiny_policy())
    assert not out.logprobs.requires_grad
    assert out.logprobs.dtype == torch.float32
    assert int(out.ids.max()) < VOCABULARY
