"""FlexAttention and its block mask against attention path by path."""

from functools import partial

import pytest
import torch

from lgrpo_lightning.policy import (
    completion_logprobs,
    flex_attention,
    head,
    row_logprobs,
    tree,
)
from lgrpo_lightning.policy.compiling import compiled
from lgrpo_lightning.policy.flex_attention import (
    BLOCK,
    FlexAttention,
    attended_blocks,
    tree_block_mask,
)
from lgrpo_lightning.policy.path_attention import PathAttention, Scoring
from lgrpo_lightning.tree.packing import pack_trees
from tests.policy.tiny_models import tiny_model, tree_batch


def packed_batch(max_tokens_per_row=None):
    prompt_ids, prompt_mask, ids, mask = tree_batch(groups=4, size=6)
    groups = torch.arange(4).repeat_interleave(6)
    rows = ids.flatten(0, 1), mask.flatten(0, 1)
    return pack_trees(prompt_ids, prompt_mask, *rows, groups, max_tokens_per_row)


def ancestors(packed):
    """The ancestor test, token by token."""
    index = torch.arange(packed.ids.shape[1])
    query, key = index.unsqueeze(1), index
    return (key <= query) & (query < packed.ends.unsqueeze(1))


@pytest.mark.parametrize("window", [None, 4])
def test_skipped_blocks_hold_nothing_and_full_blocks_everything(window, monkeypatch):
    monkeypatch.setattr(flex_attention, "BLOCK", 4)
    packed = packed_batch(40)
    mask = tree_block_mask(packed, window)
    sees = ancestors(packed)
    if window is not None:
        distance = packed.positions.unsqueeze(2) - packed.positions.unsqueeze(1)
        sees &= distance < window
    count = mask.kv_num_blocks.shape[-1]
    listed = 0
    for row in range(len(packed.ids)):
        for query in range(count):
            full = mask.full_kv_indices[row, 0, query, : mask.full_kv_num_blocks[row, 0, query]]
            partial = mask.kv_indices[row, 0, query, : mask.kv_num_blocks[row, 0, query]]
            listed += len(full) + len(partial)
            for key in range(count):
                block = sees[row, query * 4 : query * 4 + 4, key * 4 : key * 4 + 4]
                assert key not in full or block.all()
                assert key in full or key in partial or not block.any()
    assert listed < len(packed.ids) * count * (count + 1) // 2, "nothing was skipped"


@pytest.mark.parametrize("scoring", [Scoring(), Scoring(0.3, 3, None), Scoring(None, None, 2.0)])
def test_outputs_are_those_of_path_attention(scoring):
    torch.manual_seed(0)
    packed = packed_batch(40)
    rows, length = packed.ids.shape
    query = torch.randn(rows, 4, length, 16)
    key, value = torch.randn(rows, 2, length, 16), torch.randn(rows, 2, length, 16)
    with torch.no_grad():
        found = FlexAttention(packed).attend(query, key, value, scoring)
        expected = PathAttention(packed).attend(query, key, value, scoring)
    real = packed.ends > 0
    torch.testing.assert_close(found[real], expected[real], rtol=1e-5, atol=1e-5)


def test_the_engine_scores_the_same(monkeypatch):
    # On a CPU there is only the forward pass, and nothing to compile.
    monkeypatch.setattr(tree, "resolve_engine", lambda model, engine, device: (engine, ""))
    monkeypatch.setattr(head, "compiled", lambda function: function)
    model = tiny_model("llama", torch.float32)
    prompt_ids, prompt_mask, ids, mask = tree_batch(groups=4, size=6)
    groups = torch.arange(4).repeat_interleave(6)
    rows = (prompt_ids, prompt_mask, ids.flatten(0, 1), mask.flatten(0, 1), groups)
    with torch.no_grad():
        expected = row_logprobs(model, *rows)
        found = row_logprobs(model, *rows, engine="tree_flex", max_tokens_per_row=40)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_engine_is_refused_elsewhere_than_on_cuda():
    with pytest.raises(ValueError, match=r"model runs on cpu; use engine: tree"):
        completion_logprobs(tiny_model("llama"), *tree_batch(), engine="tree_flex")


def test_dropout_is_refused():
    packed = packed_batch()
    states = torch.randn(1, 2, packed.ids.shape[1], 16)
    with pytest.raises(ValueError, match=r"no dropout, got 0\.1.*disable_dropout"):
        FlexAttention(packed).attend(states, states, states, Scoring(dropout=0.1))


def test_heads_too_small_for_a_kernel_are_widened():
    torch.manual_seed(0)
    packed = packed_batch()
    length = packed.ids.shape[1]
    query, key, value = (torch.randn(1, 2, length, 4) for _ in range(3))
    with torch.no_grad():
        found = FlexAttention(packed).attend(query, key, value, Scoring(0.4))
        expected = PathAttention(packed).attend(query, key, value, Scoring(0.4))
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_autocast_settles_the_types():
    # Rotary embeddings leave queries and keys in the hidden states' float32.
    packed = packed_batch()
    query, key = torch.randn(2, 1, 2, packed.ids.shape[1], 16)
    value = torch.randn(1, 2, packed.ids.shape[1], 16, dtype=torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = FlexAttention(packed).attend(query, key, value, Scoring())
    assert found.dtype == torch.bfloat16
    with torch.no_grad():
        expected = PathAttention(packed).attend(query, key, value.float(), Scoring())
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


def test_one_compiled_kernel_serves_all_lengths(monkeypatch):
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    kernel = compiled.__wrapped__(attended_blocks)
    torch.manual_seed(0)
    for seed, length in ((0, 60), (1, 90), (2, 140)):
        packed = long_batch(seed, length)
        query = torch.randn(1, 10, packed.ids.shape[1], 16)
        key, value = (torch.randn(1, 5, packed.ids.shape[1], 16) for _ in range(2))
        with torch.no_grad():
            found = kernel(query, key, value, tree_block_mask(packed, None), None)
            expected = PathAttention(packed).attend(query, key, value, Scoring())
        real = packed.ends > 0
        torch.testing.assert_close(found.transpose(1, 2)[real], expected[real])
    assert len(graphs) == 1


def long_batch(seed, length):
    """One group in a row of several blocks."""
    prompt_ids, prompt_mask, ids, mask = tree_batch(seed, 1, 8, length, tokens=9)
    groups = torch.zeros(8, dtype=torch.long)
    return pack_trees(prompt_ids, prompt_mask, ids[0], mask[0], groups, None, BLOCK)
