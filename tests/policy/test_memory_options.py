"""Options that save memory or time: each does what it says, and refuses where it cannot."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

from lgrpo_lightning.policy import (
    LoRASettings,
    PolicySettings,
    completion_logprobs,
    load_policy,
    make_reference,
    resolve_engine,
)
from lgrpo_lightning.policy import loading as loading_module
from lgrpo_lightning.policy.blocks import blocks_of
from lgrpo_lightning.policy.compiled_blocks import compile_blocks, is_compiled, uncompiled
from tests.policy.tiny_models import tiny_model, tree_batch

ADDITION = str(Path(__file__).parents[2] / "assets" / "tiny-addition")
IDS = torch.arange(3, 15).view(2, 6)


def block_runs(policy, engine):
    """How often a block is run in a step with gradient, and the step's gradient."""
    runs = []
    # Within the block: hooks on what is checkpointed need not be run again.
    linear = next(m for m in blocks_of(policy)[0].modules() if isinstance(m, torch.nn.Linear))
    handle = linear.register_forward_pre_hook(lambda *_: runs.append(1))
    ids = torch.randint(2, 20, (2, 4, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids, dtype=torch.bool)
    scores = completion_logprobs(policy, ids[:, 0], mask[:, 0], ids, mask, engine=engine)
    scores.sum().backward()
    handle.remove()
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    return len(runs), torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("engine", ["tree", "padded"])
@pytest.mark.parametrize("lora", [None, LoRASettings(r=2, dropout=0.0)], ids=["full", "adapter"])
def test_gradient_checkpointing_computes_activations_again(engine, lora):
    torch.manual_seed(0)
    plain = load_policy(PolicySettings(ADDITION, lora=lora))
    torch.manual_seed(0)
    saving = load_policy(PolicySettings(ADDITION, lora=lora, gradient_checkpointing=True))
    once, expected = block_runs(plain, engine)
    twice, found = block_runs(saving, engine)
    assert (once, twice) == (1, 2)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("engine", ["tree", "padded"])
def test_dora_trains_alike_by_both_engines_and_begins_as_its_reference(engine):
    torch.manual_seed(0)
    settings = PolicySettings(ADDITION, lora=LoRASettings(r=2, dropout=0.0, use_dora=True))
    policy = load_policy(settings)
    reference = make_reference(policy, has_adapter=True)
    assert any("magnitude" in name for name, _ in policy.named_parameters())
    with torch.no_grad():
        with reference.model(policy) as model:
            base = model(input_ids=IDS).logits
        torch.testing.assert_close(policy(input_ids=IDS).logits, base, atol=1e-5, rtol=1e-5)
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter += 0.1
        with reference.model(policy) as model:
            torch.testing.assert_close(model(input_ids=IDS).logits, base)
        assert not torch.allclose(policy(input_ids=IDS).logits, base, atol=0.01)
    _, expected = block_runs(copy.deepcopy(policy), "padded")
    _, found = block_runs(policy, engine)
    assert expected.norm() > 0
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_reference_on_the_cpu_has_one_block_on_the_device_at_a_time(monkeypatch):
    policy = load_policy(PolicySettings(ADDITION)).eval()
    reference = make_reference(policy, has_adapter=False, on_cpu=True)
    frozen = reference.frozen
    homes = {name: tensor.data_ptr() for name, tensor in frozen.named_parameters()}
    # With one device, a copy stands for the move to another.
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *a, **k: to(tensor, *a, **k).clone())
    blocks = blocks_of(frozen)
    seen = []

    def away():
        return {n for n, p in frozen.named_parameters() if p.data_ptr() != homes[n]}

    for number, block in enumerate(blocks):
        block.register_forward_hook(lambda *_, n=number: seen.append((n, away())), prepend=True)
    outside = {n for n, _ in frozen.named_parameters() if ".layers." not in n}
    with torch.no_grad(), reference.model(policy) as model:
        logits = model(input_ids=IDS).logits
        assert away() == outside
    assert away() == set()
    assert [number for number, _ in seen] == [0, 1]
    for number, there in seen:
        assert there == outside | {n for n in homes if f".layers.{number}." in n}
    torch.testing.assert_close(logits, policy(input_ids=IDS).logits, rtol=0, atol=0)


def test_a_reference_on_the_cpu_comes_back_after_an_error():
    policy = load_policy(PolicySettings(ADDITION))
    reference = make_reference(policy, has_adapter=False, on_cpu=True)
    hooks = [len(block._forward_pre_hooks) for block in blocks_of(reference.frozen)]
    with pytest.raises(RuntimeError, match="out of memory"), reference.model(policy):
        raise RuntimeError("out of memory")
    assert [len(block._forward_pre_hooks) for block in blocks_of(reference.frozen)] == hooks


def test_a_reference_on_the_cpu_takes_another_type():
    policy = load_policy(PolicySettings(ADDITION))
    reference = make_reference(policy, has_adapter=False, on_cpu=True).to(torch.bfloat16)
    assert {p.dtype for p in reference.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in policy.parameters()} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["tree", "padded"])
def test_a_reference_on_the_cpu_gives_the_log_probs_of_one_on_the_device(engine):
    policy = tiny_model("llama").cuda()
    batch = [part.cuda() for part in tree_batch(0)]
    expected = completion_logprobs(policy, *batch, engine=engine).detach()
    reference = make_reference(policy, has_adapter=False, on_cpu=True)
    with torch.no_grad(), reference.model(policy) as model:
        found = completion_logprobs(model, *batch, engine=engine)
    torch.testing.assert_close(found, expected)
    assert {p.device.type for p in reference.cuda().parameters()} == {"cpu"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quantization": "8bit"}, r"policy.quantization must be '4bit' or null, got 8bit"),
        ({"quantization": "4bit"}, r"policy.quantization 4bit needs policy.lora"),
        ({"reference_device": "gpu"}, r"policy.reference_device must be 'policy' or 'cpu'"),
        (
            {"reference_device": "cpu", "lora": LoRASettings()},
            r"policy.reference_device cpu has no effect with policy.lora",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        PolicySettings(ADDITION, **options)


def test_without_bitsandbytes_four_bits_are_refused_with_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name)
    )
    with pytest.raises(ValueError, match=r"pip install 'lgrpo-lightning\[4bit\]'"):
        PolicySettings(ADDITION, lora=LoRASettings(), quantization="4bit")


def test_transformers_is_told_of_four_bits(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    given = {}

    class Loaded(Exception):  # noqa: N818 - nothing is wrong
        pass

    def from_pretrained(path, **options):
        given.update(options)
        raise Loaded

    monkeypatch.setattr(loading_module.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    settings = PolicySettings(ADDITION, lora=LoRASettings(), quantization="4bit")
    with pytest.raises(Loaded):
        load_policy(settings)
    config = given["quantization_config"]
    assert config.load_in_4bit
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["tree", "padded"])
def test_an_adapter_on_four_bits_trains(engine):
    pytest.importorskip("bitsandbytes")
    settings = PolicySettings(ADDITION, lora=LoRASettings(r=2, dropout=0.0), quantization="4bit")
    policy = load_policy(settings)
    trained = {n for n, p in policy.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert any(p.dtype == torch.uint8 for p in policy.parameters())
    _, gradient = block_runs(policy, engine)
    assert gradient.norm() > 0


def test_compiled_blocks_are_for_the_padded_engine():
    policy = load_policy(PolicySettings(ADDITION))
    assert resolve_engine(policy, "auto", compiled=True)[0] == "padded"
    assert resolve_engine(policy, "auto")[0] == "tree"
    with pytest.raises(ValueError, match=r"blocks are compiled \(policy.compile\).*engine: padded"):
        resolve_engine(policy, "tree", compiled=True)


def test_compiled_blocks_give_the_same_gradient_and_are_written_again_for_sampling():
    torch._dynamo.reset()
    expected = block_runs(tiny_model("llama"), "padded")[1]
    model = tiny_model("llama")
    names = [name for name, _ in model.named_parameters()]
    compile_blocks(model, backend="eager")
    assert is_compiled(model)
    assert names == [name for name, _ in model.named_parameters()]
    found = block_runs(model, "padded")[1]
    torch.testing.assert_close(found, expected)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] > 0
    before = counters["stats"]["unique_graphs"]
    with uncompiled(model), torch.no_grad():
        model.generate(torch.randint(2, 20, (2, 3)), max_new_tokens=4)
    assert counters["stats"]["unique_graphs"] == before


@pytest.mark.slow
def test_compiled_blocks_give_the_same_gradient_by_inductor():
    torch._dynamo.reset()
    expected = block_runs(tiny_model("llama").float(), "padded")[1]
    model = tiny_model("llama").float()
    compile_blocks(model)
    found = block_runs(model, "padded")[1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
