"""The weights that engines of their own are given: an adapter merged in, the policy left alone."""

import pytest
import torch

from lgrpo_lightning.policy import LoRASettings
from lgrpo_lightning.policy.loading import add_lora
from lgrpo_lightning.policy.merged import check_mergeable, merged_weights
from tests.rollout.tiny import tiny_policy


def adapted(family="llama", dtype=torch.float32, dora=False):
    """A policy with an adapter that changes it."""
    settings = LoRASettings(r=2, dropout=0.1, use_dora=dora)
    policy = add_lora(tiny_policy(family).to(dtype), settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator))
    return policy


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize(
    ("family", "dora"),
    [("llama", False), ("llama", True), ("gpt2", False)],  # GPT-2's weights are transposed
)
def test_an_adapter_is_merged_as_peft_merges_it(family, dora):
    weights = dict(merged_weights(adapted(family, dora=dora)))
    expected = adapted(family, dora=dora).merge_and_unload().state_dict()
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name])


def test_the_policys_own_weights_keep_every_bit():
    policy = adapted(dtype=torch.bfloat16)
    for weight in policy.parameters():
        weight.grad = torch.ones_like(weight) if weight.requires_grad else None
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    changed = {name for name, weight in merged_weights(policy) if "q_proj" in name}
    assert changed
    for name, weight in policy.state_dict().items():
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize("tied", [True, False])
def test_without_an_adapter_they_are_the_policys(tied):
    policy = tiny_policy(tie_word_embeddings=tied)
    weights = dict(merged_weights(policy))
    assert weights.keys() == policy.state_dict().keys()
    for name, weight in policy.state_dict().items():
        assert weights[name].data_ptr() == weight.data_ptr()


def test_quantized_weights_are_refused():
    policy = tiny_policy()
    weight = policy.lm_head.weight
    policy.lm_head.weight = torch.nn.Parameter(weight.to(torch.uint8), requires_grad=False)
    with pytest.raises(
        ValueError, match=r"lm_head.weight is held in torch.uint8; use sampler: sha"
    ):
        check_mergeable(policy)
