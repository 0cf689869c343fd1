"""Options that save memory or time, in real runs."""

import pytest
import torch

from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.policy import LoRASettings
from lgrpo_lightning.policy.compiled_blocks import is_compiled
from tests.module.runs import equal, make_data, make_module, make_trainer, weights


def trained(folder, policy, **options):
    module = make_module(
        policy=policy, micro_batch_size=2, loss=LambdaGRPOLoss(kl_coef=0.3), **options
    )
    trainer = make_trainer(folder, max_steps=3, accumulate_grad_batches=2)
    trainer.fit(module, datamodule=make_data())
    trainer.save_checkpoint(folder / "a.ckpt")
    return module


def test_a_reference_on_the_cpu_changes_nothing(tmp_path, caplog):
    caplog.set_level("INFO", "lgrpo_lightning")
    expected = trained(tmp_path, {})
    module = trained(tmp_path, {"reference_device": "cpu"})
    assert "the reference stays in the CPU's memory" in caplog.text
    assert equal(weights(module), weights(expected))
    assert module.reference.on_cpu


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_blocks_train_alike(tmp_path, caplog):
    caplog.set_level("INFO", "lgrpo_lightning")
    expected = weights(trained(tmp_path, {}, engine="padded"))
    module = trained(tmp_path, {"compile": True})
    assert "engine: padded (the tree engine cannot run this model: its blocks are" in caplog.text
    assert is_compiled(module.policy)
    for name, value in weights(module).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_the_tree_engine_is_refused_with_compiled_blocks_before_anything_is_loaded(tmp_path):
    module = make_module(policy={"compile": True}, engine="tree")
    with pytest.raises(ValueError, match=r"policy.compile.*; use engine: padded"):
        make_trainer(tmp_path, max_steps=1).fit(module, datamodule=make_data())
    assert module.policy is None


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_four_bits_under_an_adapter(tmp_path, precision):
    pytest.importorskip("bitsandbytes")
    settings = {"lora": LoRASettings(r=2), "quantization": "4bit"}
    module = make_module(policy=settings, loss=LambdaGRPOLoss(kl_coef=0.3))
    trainer = make_trainer(tmp_path, max_steps=3, precision=precision)
    trainer.fit(module, datamodule=make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert all("lora_" in name for name in saved)
    fresh = make_module(policy=settings)
    trainer = make_trainer(tmp_path)
    trainer.validate(fresh, make_data(eval_path=[{"prompt": "Q:1+1="}]), tmp_path / "a.ckpt")
    assert equal(weights(fresh), weights(module))
