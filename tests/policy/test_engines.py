"""Both engines against one completion at a time, in value and gradient."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrpo_lightning.policy import LoRASettings, completion_logprobs, row_logprobs, row_scores
from lgrpo_lightning.policy.loading import add_lora
from lgrpo_lightning.policy.support import TREE_FAMILIES
from tests.policy.tiny_models import oracle, tiny_model, tree_batch

# These compute rotary embeddings, softmax or routing in float32 whatever the model's type.
PARTLY_FLOAT32 = {"cohere", "gemma2", "mixtral", "qwen2_moe", "qwen3_moe"}


def gradients(model, logprobs):
    """Gradients of a fixed random combination of the log-probs."""
    model.zero_grad()
    weights = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(3))
    (logprobs * weights).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(model, expected, actual, tolerance):
    """Values and gradients of two computations agree to an absolute and relative tolerance."""
    wanted = gradients(model, expected)
    found = gradients(model, actual)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("family", sorted(TREE_FAMILIES))
def test_tree_engine_equals_single_completions(family):
    model, batch = tiny_model(family), tree_batch()
    tolerance = 1e-5 if family in PARTLY_FLOAT32 else 1e-10
    expected = oracle(model, *batch, temperature=0.7)[0]
    actual = completion_logprobs(model, *batch, temperature=0.7)
    assert_same(model, expected, actual, tolerance)


@pytest.mark.parametrize("family", ["cohere", "gpt2", "granite", "llama", "qwen3"])
def test_padded_engine_equals_single_completions(family):
    model, batch = tiny_model(family), tree_batch()
    expected = oracle(model, *batch, temperature=0.7)[0]
    actual = completion_logprobs(model, *batch, temperature=0.7, engine="padded")
    assert_same(model, expected, actual, 1e-5 if family in PARTLY_FLOAT32 else 1e-10)


@given(
    st.integers(0, 1000), st.integers(1, 3), st.integers(3, 6), st.integers(4, 8), st.integers(1, 4)
)
@settings(max_examples=25, deadline=None)
def test_engines_agree_on_random_trees(seed, groups, size, length, tokens):
    model = tiny_model("llama")
    batch = tree_batch(seed, groups, size, length, tokens)
    padded = completion_logprobs(model, *batch, engine="padded")
    assert_same(model, padded, completion_logprobs(model, *batch, engine="tree"), 1e-10)


def test_engines_agree_in_float32():
    model = tiny_model("llama", torch.float32)
    batch = tree_batch(groups=3, size=6)
    with torch.no_grad():
        padded = completion_logprobs(model, *batch, engine="padded")
        tree = completion_logprobs(model, *batch, engine="tree")
    torch.testing.assert_close(tree, padded, rtol=1e-5, atol=1e-5)


def test_tokens_at_a_branch_come_from_their_parent():
    # Two completions that part at token 2: the tokens before, at and after the branch.
    model = tiny_model("llama")
    prompt_ids, prompt_mask = torch.tensor([[5, 6]]), torch.ones(1, 2, dtype=torch.bool)
    ids = torch.tensor([[[3, 4, 7, 8], [3, 4, 9, 8], [10, 4, 7, 8]]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    expected = oracle(model, prompt_ids, prompt_mask, ids, mask)[0]
    actual = completion_logprobs(model, prompt_ids, prompt_mask, ids, mask)
    names = ["first after the prompt", "last shared", "first after the branch", "below the branch"]
    for step, name in enumerate(names):
        torch.testing.assert_close(
            actual[0, :, step], expected[0, :, step], rtol=1e-10, atol=1e-10, msg=name
        )
    assert actual[0, 0, 1] == actual[0, 1, 1], "a shared token has one value"
    assert actual[0, 0, 3] != actual[0, 1, 3], "the same token below a branch sees its own path"
    assert actual[0, 0, 2] != actual[0, 2, 2], "another first token changes all that follow"


def test_several_rows_give_the_same():
    model, batch = tiny_model("qwen2"), tree_batch(groups=4)
    one = completion_logprobs(model, *batch)
    prompt_ids, prompt_mask, ids, mask = batch
    several = row_logprobs(
        model,
        prompt_ids,
        prompt_mask,
        ids.flatten(0, 1),
        mask.flatten(0, 1),
        torch.arange(4).repeat_interleave(5),
        max_tokens_per_row=30,
    )
    assert_same(model, one, several.view(one.shape), 1e-10)


def test_parts_of_groups_in_any_order():
    model = tiny_model("llama")
    prompt_ids, prompt_mask, ids, mask = tree_batch(groups=3)
    rows = torch.tensor([14, 3, 0, 2, 11, 4])
    full = completion_logprobs(model, prompt_ids, prompt_mask, ids, mask).flatten(0, 1)[rows]
    part = row_logprobs(
        model, prompt_ids, prompt_mask, ids.flatten(0, 1)[rows], mask.flatten(0, 1)[rows], rows // 5
    )
    assert_same(model, full, part, 1e-10)


def test_gradient_checkpointing_recomputes_on_the_tree():
    # Backward runs after the pass: had the model its own attention back by then, this would differ.
    model, batch = tiny_model("llama"), tree_batch()
    expected = gradients(model, completion_logprobs(model, *batch))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    found = gradients(model, completion_logprobs(model, *batch))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_engines_agree_with_lora(checkpointing):
    model = add_lora(tiny_model("llama"), LoRASettings(r=2, alpha=4, dropout=0.0)).double()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    batch = tree_batch()
    padded = completion_logprobs(model, *batch, engine="padded")
    assert_same(model, padded, completion_logprobs(model, *batch, engine="tree"), 1e-10)
    with model.disable_adapter():
        plain = completion_logprobs(model, *batch)
    assert (plain - padded).abs().max() > 0.1
    with model.disable_adapter():
        expected = completion_logprobs(model, *batch, engine="padded")
    torch.testing.assert_close(plain, expected, rtol=1e-10, atol=1e-10)


def test_engines_agree_under_autocast():
    model = tiny_model("llama", torch.float32)
    batch = tree_batch()
    with torch.autocast("cpu", torch.bfloat16):
        padded = completion_logprobs(model, *batch, engine="padded")
        tree = completion_logprobs(model, *batch, engine="tree")
    assert padded.dtype == tree.dtype == torch.float32
    assert (padded - tree).abs().mean() < 0.05
    assert gradients(model, tree)["lm_head.weight"].dtype == torch.float32


def test_generation_and_other_passes_keep_their_attention():
    model = tiny_model("llama", torch.float32)
    prompts = torch.randint(3, 20, (2, 4), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    arguments = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False}
    before, logits = (
        model.generate(prompts, **arguments),
        model(prompts, attention_mask=mask).logits,
    )
    completion_logprobs(model, *tree_batch())
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model.generate(prompts, **arguments), before)
    assert torch.equal(model(prompts, attention_mask=mask).logits, logits)


def test_a_copy_of_a_used_model_works_alone():
    model, batch = tiny_model("llama"), tree_batch()
    first = completion_logprobs(model, *batch)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.zero_()
    torch.testing.assert_close(completion_logprobs(model, *batch), first)
    uniform = completion_logprobs(twin, *batch)[batch[3]]
    torch.testing.assert_close(uniform, torch.full_like(uniform, -1.0) * torch.tensor(23.0).log())
    assert twin.config._attn_implementation == "sdpa"


def test_an_error_in_a_pass_leaves_the_model_as_it_was():
    model, batch = tiny_model("llama"), tree_batch()
    expected = completion_logprobs(model, *batch)
    handle = model.model.layers[1].self_attn.q_proj.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        completion_logprobs(model, *batch)
    handle.remove()
    assert model.config._attn_implementation == "sdpa"
    assert model(torch.tensor([[1, 2]])).logits.shape == (1, 2, 23)
    torch.testing.assert_close(completion_logprobs(model, *batch), expected)


def fail(module, args):
    raise RuntimeError("on purpose")


@pytest.mark.parametrize("engine", ["padded", "tree"])
def test_entropy_is_that_of_the_sampling_distribution(engine):
    model = tiny_model("llama")
    prompt_ids, prompt_mask, ids, mask = tree_batch()
    allowed = [3, 4, 5, 9]
    logprobs, entropy = oracle(model, prompt_ids, prompt_mask, ids, mask, 1.3, allowed)
    scores = row_scores(
        model,
        prompt_ids,
        prompt_mask,
        ids.flatten(0, 1),
        mask.flatten(0, 1),
        torch.arange(2).repeat_interleave(5),
        temperature=1.3,
        engine=engine,
        allowed_tokens=allowed,
        return_entropy=True,
    )
    torch.testing.assert_close(scores.logprobs.view(ids.shape), logprobs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(scores.entropy.view(ids.shape), entropy, rtol=1e-10, atol=1e-10)
    assert not scores.entropy.requires_grad


@pytest.mark.parametrize("engine", ["padded", "tree"])
def test_empty_completions_score_nothing(engine):
    model = tiny_model("llama")
    prompt_ids, prompt_mask, ids, mask = tree_batch()
    logprobs = completion_logprobs(
        model, prompt_ids, prompt_mask, ids, torch.zeros_like(mask), engine=engine
    )
    assert torch.equal(logprobs, torch.zeros_like(logprobs))


@pytest.mark.parametrize("engine", ["padded", "tree"])
def test_a_token_that_could_not_be_sampled_is_refused(engine):
    with pytest.raises(ValueError, match=r"token \d+, which is not among the 1 allowed_tokens"):
        completion_logprobs(tiny_model("llama"), *tree_batch(), engine=engine, allowed_tokens=[3])


def test_arguments_are_checked():
    model, batch = tiny_model("llama"), tree_batch()
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        completion_logprobs(model, *batch, temperature=0)
    with pytest.raises(ValueError, match=r"engine must be one of .*, got 'fast'"):
        completion_logprobs(model, *batch, engine="fast")
    with pytest.raises(ValueError, match=r"B = 2 prompts, got \[1, 5, 7\]"):
        completion_logprobs(model, *batch[:2], batch[2][:1], batch[3][:1])
    with pytest.raises(ValueError, match=r"max_tokens_per_row is 5"):
        row_logprobs(
            model,
            *batch[:2],
            batch[2][0],
            batch[3][0],
            torch.zeros(5, dtype=torch.long),
            max_tokens_per_row=5,
        )
