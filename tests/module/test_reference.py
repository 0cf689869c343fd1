"""The reference: frozen, in eval mode, and in no checkpoint or optimizer."""

import torch

from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.policy import LoRASettings, PolicySettings, load_policy, row_logprobs
from tests.module.runs import ADDITION, Recorder, make_data, make_module, make_trainer, reward

KL = {"loss": LambdaGRPOLoss(kl_coef=0.1)}
FAST = {
    "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "rewards": [reward("row_number")],
}


def fit(folder, module, **options):
    recorder = Recorder()
    trainer = make_trainer(folder, callbacks=[recorder], max_steps=3, **options)
    trainer.fit(module, datamodule=make_data())
    return trainer, recorder


def base_logprobs(module, rollout):
    """Log-probs of a rollout under the model as it lies on disk."""
    with torch.no_grad():
        return row_logprobs(
            load_policy(PolicySettings(ADDITION)).eval(),
            rollout.prompt_ids,
            rollout.prompt_mask,
            rollout.completion_ids.flatten(0, 1),
            rollout.completion_mask.flatten(0, 1),
            torch.tensor([0, 0, 1, 1]),
            module.sampling.temperature,
            "padded",
        ).view(rollout.completion_ids.shape)


def test_a_copy_stays_what_the_policy_was(tmp_path):
    module = make_module(**KL, **FAST)
    trainer, recorder = fit(tmp_path, module)
    frozen = module.reference.frozen
    assert not frozen.training
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.grad is None for parameter in frozen.parameters())
    optimised = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimised == {id(parameter) for parameter in module.policy.parameters()}
    for rollout in recorder.rollouts:
        expected = base_logprobs(module, rollout)
        torch.testing.assert_close(rollout.ref_logprobs, expected, rtol=0, atol=1e-5)


def test_it_is_in_no_checkpoint(tmp_path):
    module = make_module(**KL)
    trainer, _ = fit(tmp_path, module)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert state.keys() == {f"policy.{name}" for name in module.policy.state_dict()}


def test_after_loading_a_checkpoint_it_is_still_the_model_it_started_from(tmp_path):
    module = make_module(**KL, **FAST)
    trainer, _ = fit(tmp_path, module)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = make_module(**KL, **FAST)
    recorder = Recorder()
    make_trainer(tmp_path, callbacks=[recorder], max_steps=4).fit(
        again, datamodule=make_data(), ckpt_path=tmp_path / "a.ckpt"
    )
    (rollout,) = recorder.rollouts
    expected = base_logprobs(again, rollout)
    torch.testing.assert_close(rollout.ref_logprobs, expected, rtol=0, atol=1e-5)
    (rows,) = rollout.micro_batches
    moved = rollout.ref_logprobs.flatten(0, 1)[rows] - recorder.outputs[0]["logprobs"]
    assert moved.abs().max() > 0.01


def test_without_a_kl_term_there_is_none(tmp_path):
    module = make_module()
    _, recorder = fit(tmp_path, module)
    assert module.reference is None
    assert all(rollout.ref_logprobs is None for rollout in recorder.rollouts)
    assert all(output["ref_logprobs"] is None for output in recorder.outputs)
    assert all(name.startswith("policy.") for name, _ in module.named_parameters())


def test_with_an_adapter_it_is_the_model_below(tmp_path):
    module = make_module(policy={"lora": LoRASettings(r=2)}, **KL, **FAST)
    trainer, recorder = fit(tmp_path, module)
    assert module.reference.frozen is None
    for rollout in recorder.rollouts:
        expected = base_logprobs(module, rollout)
        torch.testing.assert_close(rollout.ref_logprobs, expected, rtol=0, atol=1e-5)
    assert trainer.logged_metrics["train/kl"] > 1e-4
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    optimised = sum(len(group["params"]) for group in trainer.optimizers[0].param_groups)
    assert optimised == len(trained)
