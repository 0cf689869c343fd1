"""Strategies and precisions that cannot run a policy are refused."""

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from lgrpo_lightning.fsdp2 import FSDP2Strategy
from lgrpo_lightning.policy import PolicySettings
from lgrpo_lightning.policy.sharding import is_sharded, shard
from lgrpo_lightning.preflight import check_strategy
from tests.module.runs import ADDITION, make_data, make_module, make_trainer, weights
from tests.policy.tiny_models import tiny_model


@pytest.mark.parametrize("kind", [DeepSpeedStrategy, FSDPStrategy])
def test_strategies_that_wrap_the_whole_module_are_refused(kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__} wraps the whole module.* use fsdp2"):
        check_strategy(object.__new__(kind), PolicySettings(ADDITION))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"reference_device": "cpu"}, "reference_device cpu"), ({"compile": True}, "compile")],
)
def test_options_that_need_whole_weights_are_refused_with_split_ones(options, said):
    with pytest.raises(ValueError, match=f"policy.{said} does not go with weights that are split"):
        check_strategy(FSDP2Strategy(), PolicySettings(ADDITION, **options))


def test_a_strategy_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    monkeypatch.setattr(trainer.strategy, "__class__", FSDPStrategy)
    module = make_module()
    module.trainer = trainer
    with pytest.raises(ValueError, match=r"trainer.strategy FSDPStrategy"):
        module.setup("fit")
    assert module.policy is None


def test_fsdp2_refuses_a_gradient_scaler(tmp_path):
    strategy = FSDP2Strategy()
    strategy.precision_plugin = type("", (), {"precision": "16-mixed"})()
    with pytest.raises(ValueError, match=r"16-mixed .* use bf16-mixed, or the strategy ddp"):
        strategy.setup_environment()


def test_sharing_layers_is_refused(tmp_path):
    module = make_module()
    module._device_mesh = {
        "tensor_parallel": type("", (), {"size": lambda self: 2})(),
        "data_parallel": None,
    }
    module._trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match=r"tensor_parallel_size.* use strategy: fsdp2"):
        module.configure_model()


def test_a_model_that_does_not_tell_its_blocks_is_refused():
    model = tiny_model("llama")
    model._no_split_modules = None
    with pytest.raises(ValueError, match=r"LlamaForCausalLM does not tell .* leave them out"):
        shard(model, mesh=None)
    assert not is_sharded(model)


def test_half_precision_with_a_scaler_is_taken_for_cuda():
    if torch.cuda.is_available():
        pytest.skip("on a CPU only")
    with pytest.warns(UserWarning, match=r"Using `precision='bf16-mixed'` instead"):
        trainer = Trainer(accelerator="cpu", precision="16-mixed", logger=False, barebones=True)
    assert trainer.precision == "bf16-mixed"


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["auto", "ddp", FSDP2Strategy])
@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "bf16-mixed", "16-mixed"])
def test_precision_on_cuda(tmp_path, strategy, precision):
    if strategy is FSDP2Strategy and precision == "16-mixed":
        pytest.skip("refused")
    options = {"accelerator": "gpu", "precision": precision, "max_steps": 3}
    module = make_module(micro_batch_size=2)
    start = make_module()
    start.configure_model()
    trainer = make_trainer(
        tmp_path, strategy=strategy if isinstance(strategy, str) else strategy(), **options
    )
    trainer.fit(module, datamodule=make_data())
    assert trainer.global_step == 3
    changed = [
        not torch.equal(value.cpu(), before)
        for value, before in zip(weights(module).values(), weights(start).values(), strict=True)
    ]
    assert any(changed)
