from pathlib import Path

import pytest
import torch

from lgrpo_lightning.policy import LoRASettings, PolicySettings, load_policy, make_reference

ADDITION = str(Path(__file__).parents[2] / "assets" / "tiny-addition")
IDS = torch.arange(3, 15).view(2, 6)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def changed(policy):
    """Move whatever is trained."""
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)


@pytest.fixture
def base():
    return logits(load_policy(PolicySettings(ADDITION)).eval())


def test_a_copy_does_not_follow_the_policy(base):
    policy = load_policy(PolicySettings(ADDITION))
    reference = make_reference(policy, has_adapter=False)
    changed(policy)
    with reference.model(policy) as model:
        assert model is reference.frozen
        assert torch.equal(logits(model), base)
    assert not torch.allclose(logits(policy), base, atol=0.01)
    assert policy.training


def test_a_copy_is_frozen_and_in_eval_mode():
    policy = load_policy(PolicySettings(ADDITION))
    frozen = make_reference(policy, has_adapter=False).frozen
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in policy.parameters())
    storages = {parameter.data_ptr() for parameter in policy.parameters()}
    assert storages.isdisjoint(parameter.data_ptr() for parameter in frozen.parameters())


def test_with_an_adapter_nothing_is_copied_and_the_adapter_is_back_afterwards(base):
    policy = load_policy(PolicySettings(ADDITION, lora=LoRASettings(r=2))).eval()
    reference = make_reference(policy, has_adapter=True)
    assert not list(reference.parameters())
    changed(policy)
    moved = logits(policy)
    trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    with reference.model(policy) as model:
        assert model is policy
        torch.testing.assert_close(logits(model), base)
    assert torch.equal(logits(policy), moved)
    assert not torch.allclose(moved, base, atol=0.01)
    assert trained == [name for name, p in policy.named_parameters() if p.requires_grad]


def test_the_adapter_is_back_after_an_error(base):
    policy = load_policy(PolicySettings(ADDITION, lora=LoRASettings(r=2))).eval()
    changed(policy)
    moved = logits(policy)
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        make_reference(policy, True).model(policy),
    ):
        raise RuntimeError("out of memory")
    assert torch.equal(logits(policy), moved)
