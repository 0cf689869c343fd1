"""The estimate against what is counted on models of a test's size."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lgrpo_lightning.memory import MemoryCase, estimate
from lgrpo_lightning.memory.skeleton import skeleton
from lgrpo_lightning.policy import LoRASettings, PolicySettings, completion_logprobs, load_policy

ADDITION = Path(__file__).parents[2] / "assets" / "tiny-addition"
CASE = MemoryCase(
    policy=PolicySettings(str(ADDITION)),
    precision="32-true",
    strategy="one",
    processes=1,
    device="cpu",
    num_prompts=2,
    group_size=4,
    micro_batch_size=8,
    prompt_tokens=6,
    completion_tokens=20,
    shared=0.0,
    has_reference=True,
    engine="padded",
    sampler="shared_prefix",
    sampler_rows=8,
    optimizer_values=2,
)


def part(case, name):
    """Bytes of a part; 0 where it takes none."""
    found = estimate(case)
    return sum(p.bytes for p in found.parts if p.name == name)


def test_what_is_held_is_counted_weight_by_weight():
    count = sum(p.numel() for p in load_policy(CASE.policy).parameters())
    assert part(CASE, "weights") == part(CASE, "gradients") == part(CASE, "reference") == 4 * count
    assert part(CASE, "optimizer") == 8 * count
    assert part(replace(CASE, has_reference=False), "reference") == 0
    assert part(replace(CASE, precision="bf16-true"), "weights") == 2 * count
    assert part(replace(CASE, precision="bf16-mixed"), "weights") == 4 * count
    assert part(replace(CASE, optimizer_values=0), "optimizer") == 0


def kept_by_a_step(policy, engine):
    """Bytes that the forward pass of a micro-batch really keeps, without weights."""
    own = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage, storage.nbytes())
        return tensor

    ids = torch.randint(2, 20, (2, 4, 20), generator=torch.Generator().manual_seed(0))
    ids[..., 0] = torch.arange(4) + 2  # nothing is shared
    mask = torch.ones_like(ids, dtype=torch.bool)
    prompts = ids[:, 0, :6]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scores = completion_logprobs(policy, prompts, mask[:, 0, :6], ids, mask, engine=engine)
    assert scores.requires_grad
    return sum(size for _, size in kept.values())


@pytest.mark.parametrize("engine", ["padded", "tree"])
@pytest.mark.parametrize("lora", [None, LoRASettings(r=8, dropout=0.0)], ids=["full", "adapter"])
def test_activations_are_those_of_a_step(engine, lora):
    settings = PolicySettings(str(ADDITION), lora=lora)
    found = part(replace(CASE, policy=settings, engine=engine), "activations")
    assert found == pytest.approx(kept_by_a_step(load_policy(settings), engine), rel=0.1)


def test_checkpointing_keeps_the_inputs_of_blocks_and_one_block():
    saving = replace(CASE, policy=PolicySettings(str(ADDITION), gradient_checkpointing=True))
    shape = skeleton(saving.policy, "32-true")
    tokens = 8 * (6 + 20)
    expected = tokens * (2 * 64 * 4 + shape.kept.per_token_of_a_block)
    assert part(saving, "activations") == pytest.approx(expected)
    assert part(saving, "activations") < part(CASE, "activations")


def test_keys_and_values_are_allocated_once():
    tokens = 8 * 20 + 2 * 6
    assert part(CASE, "keys and values") == 2 * 2 * 64 * tokens * 4
    repeated = replace(CASE, sampler="hf")
    assert part(repeated, "keys and values") == 2 * 2 * 64 * 8 * (20 + 6) * 4


def test_an_adapter_has_no_reference_and_small_gradients():
    lora = replace(CASE, policy=PolicySettings(str(ADDITION), lora=LoRASettings(r=2)))
    count = sum(p.numel() for p in load_policy(lora.policy).parameters() if p.requires_grad)
    assert part(lora, "gradients") == 4 * count
    assert part(lora, "reference") == 0


def test_four_bits_shrink_what_is_frozen(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    lora = PolicySettings(str(ADDITION), lora=LoRASettings(r=2))
    quantized = PolicySettings(str(ADDITION), lora=LoRASettings(r=2), quantization="4bit")
    linears = 2 * (4 * 64 * 64 + 3 * 64 * 192)
    saved = part(replace(CASE, policy=lora), "weights") - part(
        replace(CASE, policy=quantized), "weights"
    )
    assert saved == pytest.approx(linears * (4 - 0.52), rel=0.01)


def test_a_reference_on_the_cpu_is_elsewhere():
    policy = PolicySettings(str(ADDITION), reference_device="cpu")
    found = estimate(replace(CASE, policy=policy, device="cuda"))
    assert [p.name for p in found.elsewhere] == ["reference"]
    assert all(p.name != "reference" for p in found.parts)
    assert not estimate(replace(CASE, policy=policy)).elsewhere  # it is the same memory


def test_fsdp2_splits_what_is_held_and_gathers_a_part():
    split = replace(CASE, strategy="fsdp2", processes=4)
    for name in ("weights", "gradients", "optimizer", "reference"):
        assert part(split, name) == part(CASE, name) / 4
    assert part(split, "gathered weights") > 0
    assert part(replace(CASE, strategy="ddp"), "gradients in DDP's buckets") == part(
        CASE, "gradients"
    )


def test_the_peak_is_that_of_the_phase_that_takes_most():
    found = estimate(CASE)
    assert found.peak == found.at("training step")
    sampling = replace(CASE, num_prompts=400, sampler_rows=1600)
    assert estimate(sampling).peak == estimate(sampling).at("sampling")


def test_a_configuration_is_enough(tmp_path):
    config = json.loads((ADDITION / "config.json").read_text())
    config |= {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}
    config |= {"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128}
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 128_256}))
    found = estimate(replace(CASE, policy=PolicySettings(str(tmp_path)), precision="bf16-true"))
    (weights,) = [p.bytes for p in found.parts if p.name == "weights"]
    assert weights == pytest.approx(69.5e9 * 2, rel=0.01)
