"""Train mode in the update, eval mode elsewhere; dropout; gradient checkpointing."""

import pytest
import torch
from lightning.pytorch import Callback

from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.policy import LoRASettings
from tests.module.runs import HELD_OUT, Recorder, make_data, make_module, make_trainer

KL = {"loss": LambdaGRPOLoss(kl_coef=0.1), "num_iterations": 2}


class Calls(Callback):
    """Notes every forward pass through a layer: of which part, in which mode, in which phase."""

    def __init__(self):
        self.seen = []
        self.phase = "rollout"

    def setup_layers(self, pl_module):
        for part, model in (("policy", pl_module.policy), ("reference", pl_module.reference)):
            for name, layer in model.named_modules() if model is not None else ():
                if name.endswith("layers.0.mlp"):  # inside what checkpointing repeats
                    layer.register_forward_pre_hook(self.hook(part))

    def hook(self, part):
        def note(layer, inputs):
            self.seen.append((part, self.phase, layer.training, torch.is_grad_enabled()))

        return note

    def on_fit_start(self, trainer, pl_module):
        self.setup_layers(pl_module)
        training_step = pl_module.training_step

        def noted(*args):
            self.phase = "update"
            return training_step(*args)

        pl_module.training_step = noted

    def on_train_batch_end(self, *args):
        self.phase = "rollout"

    def on_validation_start(self, *args):
        self.phase = "evaluation"

    def on_validation_end(self, *args):
        self.phase = "rollout"

    def modes(self, phase, part="policy"):
        return {mode for who, when, mode, _ in self.seen if (who, when) == (part, phase)}


def fit(folder, module, *callbacks, **options):
    trainer = make_trainer(folder, callbacks=list(callbacks), **{"max_steps": 4, **options})
    trainer.fit(module, datamodule=make_data(eval_path=HELD_OUT))
    return trainer


@pytest.mark.parametrize("lora", [None, LoRASettings(r=2)], ids=["full", "lora"])
def test_train_mode_in_the_update_and_eval_mode_elsewhere(tmp_path, lora):
    calls = Calls()
    module = make_module(policy={"lora": lora}, **KL)
    fit(tmp_path, module, calls, val_check_interval=2, num_sanity_val_steps=1)
    assert calls.modes("update") == {True}
    assert calls.modes("rollout") == {False}
    assert calls.modes("evaluation") == {False}
    if lora is None:
        assert calls.modes("rollout", "reference") == {False}
    assert calls.modes("update", "reference") == set()
    assert module.policy.training


def test_evaluation_before_and_after_training_leaves_the_modes(tmp_path):
    module = make_module(**KL)
    data = make_data(eval_path=HELD_OUT)
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.validate(module, datamodule=data)
    assert module.policy.training
    calls = Calls()
    trainer = fit(tmp_path, module, calls)
    assert calls.modes("update") == {True}
    trainer.test(module, datamodule=data)
    assert module.policy.training


@pytest.mark.parametrize("lora", [None, LoRASettings(r=2)], ids=["full", "lora"])
@pytest.mark.parametrize("engine", ["padded", "tree"])
def test_gradient_checkpointing_recomputes_and_changes_nothing(tmp_path, engine, lora):
    def run(on):
        torch.manual_seed(0)
        calls, recorder = Calls(), Recorder()
        policy = {"gradient_checkpointing": on, "lora": lora}
        module = make_module(policy=policy, engine=engine, group_size=8)
        fit(tmp_path, module, calls, recorder, max_steps=1)
        updates = [grad for _, phase, _, grad in calls.seen if phase == "update"]
        return len(updates), torch.cat(recorder.gradients)

    (plain, expected), (checkpointed, found) = run(False), run(True)
    assert expected.norm() > 0
    assert plain == 1
    assert checkpointed == 2  # forward, and again for backward
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_the_models_own_dropout_is_off_unless_asked_for(tmp_path, random_model):
    path = random_model(
        "gpt2", n_embd=16, n_layer=2, n_head=2, n_positions=64, resid_pdrop=0.5, attn_pdrop=0.5
    )

    def gap(**policy):
        recorder = Recorder()
        module = make_module(path, policy, num_iterations=2)
        fit(tmp_path, module, recorder, max_steps=1)
        first = recorder.outputs[0]
        return float((first["logprobs"] - first["old_logprobs"]).abs().max())

    assert gap() < 1e-5
    assert gap(disable_dropout=False) > 1e-2


def test_the_adapters_dropout_is_on_in_the_update(tmp_path):
    def gradient(dropout):
        torch.manual_seed(0)
        recorder = Recorder()
        module = make_module(policy={"lora": LoRASettings(r=2, dropout=dropout)}, group_size=8)
        fit(tmp_path, module, recorder, max_steps=1)
        return recorder.gradients[0]

    without = gradient(0.0)
    assert without.norm() > 0
    assert (gradient(0.5) - without).norm() > 0.1 * without.norm()
