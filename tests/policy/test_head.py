"""The chunked head against plain softmax, with tiles that cut everywhere."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrpo_lightning.policy import completion_logprobs, logit_tiles, scores
from lgrpo_lightning.policy.head import selected_logprobs
from lgrpo_lightning.policy.logit_tiles import LogitTransform
from tests.policy.tiny_models import oracle, tiny_model, tree_batch


@given(
    st.integers(0, 9),
    st.integers(2, 30),
    st.booleans(),
    st.sampled_from([1.0, 0.3]),
    st.sampled_from([None, 1.5]),
    st.sampled_from([1.0, 0.6]),
    st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_values_and_gradients_are_those_of_softmax(tokens, vocabulary, bias, scale, cap, tau, keep):
    torch.manual_seed(tokens * 100 + vocabulary)
    states = torch.randn(tokens, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(vocabulary, 5, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(vocabulary, dtype=torch.float64, requires_grad=True) if bias else None
    targets = torch.randint(0, vocabulary, (tokens,))
    upstream = torch.randn(tokens, dtype=torch.float64)
    transform = LogitTransform(scale, cap, tau)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logit_tiles, "TILE", {"cpu": 21})
        patch.setattr(logit_tiles, "MAX_TOKENS", {"cpu": 4})
        patch.setattr(logit_tiles, "KEPT", {"cpu": 1000 if keep else 0})
        found, entropy = selected_logprobs(states, weight, offset, targets, transform, True)
        leaves = [leaf for leaf in (states, weight, offset) if leaf is not None]
        found_gradients = torch.autograd.grad((found * upstream).sum(), leaves)
    raw = states @ weight.T + (0 if offset is None else offset)
    capped = raw * scale if cap is None else cap * torch.tanh(raw * scale / cap)
    every = (capped / tau).log_softmax(-1)
    expected = every.gather(1, targets.unsqueeze(1))[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(entropy, -(every.exp() * every).sum(-1), rtol=1e-10, atol=1e-10)
    wanted = torch.autograd.grad((expected * upstream).sum(), leaves)
    for gradient, reference in zip(found_gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_the_compiled_tiles_give_the_same_for_all_shapes(monkeypatch):
    monkeypatch.setattr(logit_tiles, "TILE", {"cpu": 200})
    monkeypatch.setattr(logit_tiles, "KEPT", {"cpu": 0})
    torch._dynamo.utils.counters.clear()
    for tokens, words in ((20, 70), (21, 81), (13, 90)):
        states = torch.randn(tokens, 5, requires_grad=True)
        weight = torch.randn(words, 5, requires_grad=True)
        arguments = (states, weight, None, torch.arange(tokens), LogitTransform(temperature=0.7))
        results = []
        for fused in (False, True):
            found, entropy = selected_logprobs(*arguments, return_entropy=True, fused=fused)
            gradients = torch.autograd.grad(found.square().sum(), (states, weight))
            results.append((found, entropy, *gradients))
        for plain, compiled in zip(*results, strict=True):
            torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3


def test_only_few_logits_are_kept_for_backward(monkeypatch):
    states, weight = torch.randn(8, 5, requires_grad=True), torch.randn(40, 5, requires_grad=True)
    for most, tiles in ((320, 1), (319, 0)):
        monkeypatch.setattr(logit_tiles, "KEPT", {"cpu": most})
        found, _ = selected_logprobs(states, weight, None, torch.arange(8), LogitTransform())
        saved = [saved.shape for saved in found.grad_fn.saved_tensors if saved is not None]
        assert saved.count((8, 40)) == tiles


def test_frozen_weights_get_no_gradient():
    states = torch.randn(4, 5, requires_grad=True)
    weight = torch.randn(7, 5)
    logprobs, _ = selected_logprobs(states, weight, None, torch.arange(4), LogitTransform())
    logprobs.sum().backward()
    assert states.grad is not None
    assert weight.grad is None


@pytest.mark.parametrize("engine", ["padded", "tree"])
def test_only_one_token_passes_the_whole_head(engine, monkeypatch):
    model, batch = tiny_model("llama"), tree_batch()
    sizes = []
    model.lm_head.register_forward_hook(lambda m, args, out: sizes.append(out.shape))
    completion_logprobs(model, *batch, engine=engine)
    assert sizes == [(1, 1, 23)]


def test_tied_embeddings_get_both_gradients():
    model, batch = tiny_model("llama", tie_word_embeddings=True), tree_batch()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    oracle(model, *batch)[0].sum().backward()
    expected = model.lm_head.weight.grad.clone()
    model.zero_grad()
    completion_logprobs(model, *batch).sum().backward()
    torch.testing.assert_close(model.lm_head.weight.grad, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("engine", ["padded", "tree"])
def test_logits_of_an_unknown_kind_are_taken_from_the_model(engine, monkeypatch, caplog):
    # The scale is hidden from us: the check against the model's own logits must notice.
    model, batch = tiny_model("cohere"), tree_batch()
    monkeypatch.setattr(scores, "logit_transform", lambda base: LogitTransform())
    expected = oracle(model, *batch)[0]
    for _ in range(2):
        found = completion_logprobs(model, *batch, engine=engine)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert caplog.text.count("all its logits are computed at once") == 1


def test_biased_heads():
    model, batch = tiny_model("phi"), tree_batch()
    assert model.lm_head.bias is not None
    expected = oracle(model, *batch)[0]
    found = completion_logprobs(model, *batch)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@given(st.integers(1, 9), st.integers(2, 30), st.sampled_from([None, 1.5]))
@settings(max_examples=25, deadline=None)
def test_the_fused_slopes_are_the_same(tokens, words, cap):
    torch.manual_seed(tokens * 100 + words)
    raw = torch.randn(tokens, words, dtype=torch.float64)
    columns = torch.randint(-words, 2 * words, (tokens,))  # some in other tiles
    lse = raw.logsumexp(1) + 0.5
    arguments = (raw, columns, lse, torch.randn(tokens).double(), LogitTransform(0.3, cap, 0.7))
    fused = logit_tiles.fused_tile_slopes(*arguments, torch.float64)
    torch.testing.assert_close(fused, logit_tiles.tile_slopes(*arguments), rtol=1e-10, atol=1e-10)
