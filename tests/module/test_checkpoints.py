"""Checkpoints: plain data, complete, and of this model only."""

import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from lgrpo_lightning.data import PromptGroupDataModule
from lgrpo_lightning.module import LambdaGRPO
from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.policy import LoRASettings
from lgrpo_lightning.rewards import RewardSpec
from tests.module.runs import (
    ADDITION,
    HELD_OUT,
    ROWS,
    equal,
    make_data,
    make_module,
    make_trainer,
    reward,
    weights,
)

LORA = {"policy": {"lora": LoRASettings(r=2)}}


def trained(folder, **options):
    """A trained module and its checkpoint, taken inside a rollout."""
    module = make_module(num_iterations=2, loss=LambdaGRPOLoss(kl_coef=0.1), **options)
    trainer = make_trainer(folder, max_steps=3)
    trainer.fit(module, datamodule=make_data())
    trainer.save_checkpoint(folder / "a.ckpt")
    return module, folder / "a.ckpt"


@pytest.mark.parametrize("options", [{}, LORA], ids=["full", "lora"])
def test_a_module_made_in_python_is_loaded_whole(tmp_path, options):
    module, path = trained(tmp_path, **options)
    loaded = LambdaGRPO.load_from_checkpoint(path)
    assert equal(weights(loaded), weights(module))
    assert loaded.policy_settings == module.policy_settings
    assert loaded.sampling == module.sampling
    assert loaded.loss == module.loss
    assert loaded.runner.names == ["token_sum"]
    assert loaded.policy.training
    found = make_trainer(tmp_path).validate(loaded, datamodule=make_data(eval_path=HELD_OUT))
    assert found == [{}]  # what is logged of an evaluation is up to callbacks


def test_rewards_that_are_no_plain_data_are_passed_again(tmp_path):
    spec = RewardSpec(reward("token_sum"), weight=2.0)
    _, path = trained(tmp_path, rewards=[spec])
    with pytest.raises(TypeError, match="rewards"):
        LambdaGRPO.load_from_checkpoint(path)
    assert LambdaGRPO.load_from_checkpoint(path, rewards=[spec]).runner.weights == [2.0]


def test_a_module_of_the_command_line_is_loaded_whole(tmp_path):
    config = {
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "default_root_dir": str(tmp_path),
        },
        "model": {
            "policy": {"path": ADDITION, "lora": {"r": 2}},
            "rewards": [{"function": reward("token_sum"), "weight": 2.0}],
            "group_size": 2,
            "sampling": {"max_new_tokens": 3},
            "loss": {"kl_coef": 0.1},
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}},
        },
        "data": {"path": ROWS, "prompts_per_rollout": 2},
    }
    cli = LightningCLI(
        LambdaGRPO,
        PromptGroupDataModule,
        save_config_callback=None,
        auto_configure_optimizers=False,
        args={"fit": config, "subcommand": "fit"},
    )
    cli.trainer.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    loaded = LambdaGRPO.load_from_checkpoint(tmp_path / "a.ckpt")
    assert equal(weights(loaded), weights(cli.model))
    assert loaded.policy_settings.lora.r == 2
    assert loaded.runner.weights == [2.0]
    assert loaded.configure_optimizers().param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize("options", [{}, LORA], ids=["full", "lora"])
def test_they_load_without_executing_anything(tmp_path, options):
    _, path = trained(tmp_path, **options)
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["lgrpo_rollout"]["completion_ids"].shape[:2] == (2, 2)


def test_with_an_adapter_they_hold_the_adapter_alone(tmp_path):
    module, path = trained(tmp_path, **LORA)
    state = torch.load(path, weights_only=True)["state_dict"]
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    assert state.keys() == trainable
    assert path.stat().st_size < 300_000  # the policy alone has 434,000 bytes


def test_missing_and_unknown_weights_are_refused(tmp_path):
    module, path = trained(tmp_path)
    state = torch.load(path, weights_only=True)["state_dict"]
    before = weights(module)
    name = next(iter(state))
    lacking = {key: value for key, value in state.items() if key != name}
    with pytest.raises(ValueError, match=rf"lacks 1 weights \['{name}'\]"):
        module.load_state_dict(lacking)
    with pytest.raises(ValueError, match=r"1 unknown ones \['policy.new'\]"):
        module.load_state_dict({**state, "policy.new": torch.zeros(1)})
    with pytest.raises(ValueError, match=rf"of another shape \['{name} \[2\] instead of"):
        module.load_state_dict({**state, name: torch.zeros(2)})
    assert equal(weights(module), before)


def test_a_checkpoint_of_another_model_is_refused(tmp_path, gpt2):
    _, path = trained(tmp_path)
    for module in (make_module(gpt2), make_module(**LORA)):
        trainer = make_trainer(tmp_path, max_steps=4)
        with pytest.raises(ValueError, match="the checkpoint is not of this model"):
            trainer.fit(module, datamodule=make_data(), ckpt_path=path)


def test_resuming_does_not_take_over_hyperparameters(tmp_path):
    _, path = trained(tmp_path)
    module = make_module(num_iterations=2, loss=LambdaGRPOLoss(kl_coef=0.7))
    trainer = make_trainer(tmp_path, max_steps=4)
    trainer.fit(module, datamodule=make_data(), ckpt_path=path)
    assert module.loss.kl_coef == 0.7
