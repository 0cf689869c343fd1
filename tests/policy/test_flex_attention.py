"""FlexAttention and its block mask against attention path by path."""

import pytest
import torch

from lgrpo_lightning.policy import completion_logprobs, flex_attention
from lgrpo_lightning.policy.flex_attention import FlexAttention, tree_block_mask
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


def test_dropout_is_refused():
    packed = packed_batch()
    states = torch.randn(1, 2, packed.ids.shape[1], 16)
    with pytest.raises(ValueError, match=r"no dropout, got 0\.1.*disable_dropout"):
        FlexAttention(packed).attend(states, states, states, Scoring(dropout=0.1))


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_engines_agree_on_cuda(family, checkpointing):
    model = tiny_model(family, torch.float32, head_dim=16).cuda()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    gradients = []
    for engine in ("padded", "tree"):
        batch = [part.cuda() for part in tree_batch(groups=3, size=6)]
        batch[1][:] = True  # eager attention has no answer for padding's own rows
        model.zero_grad()
        logprobs = completion_logprobs(model, *batch, engine=engine)
        logprobs.square().sum().backward()
        gradients.append([logprobs] + [p.grad.clone() for p in model.parameters()])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
