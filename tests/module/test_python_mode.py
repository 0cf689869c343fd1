"""Used from Python, without a command line or a config."""

import torch
from lightning.pytorch import Trainer

from lgrpo_lightning import LambdaGRPO, LambdaGRPOLoss, PromptGroupDataModule
from lgrpo_lightning.data import PromptLoader, PromptSet
from lgrpo_lightning.policy import PolicySettings
from lgrpo_lightning.rollout import SamplingSettings
from tests.module.runs import ADDITION, HELD_OUT, ROWS, TOKENS, Recorder, make_module, make_trainer
from tests.module.toy_rewards import needs_answer, token_sum


def test_a_plain_function_an_optimizer_and_a_scheduler(tmp_path):
    recorder = Recorder()
    module = LambdaGRPO(
        policy=PolicySettings(ADDITION),
        rewards=[token_sum, needs_answer],
        group_size=4,
        micro_batch_size=4,
        sampling=SamplingSettings(max_new_tokens=TOKENS, temperature=6.0),
        evaluation=SamplingSettings(max_new_tokens=TOKENS, temperature=0.0),
        loss=LambdaGRPOLoss(kl_coef=0.04),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
    )
    data = PromptGroupDataModule(ROWS, eval_path=HELD_OUT, prompts_per_rollout=2)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=3,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        callbacks=[recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, datamodule=data)
    assert isinstance(trainer.optimizers[0], torch.optim.AdamW)
    assert recorder.rates == [1e-3, 5e-4, 2.5e-4]
    assert recorder.outputs[0]["reward_breakdown"].keys() == {"token_sum", "needs_answer"}
    assert any(
        not torch.equal(weight, recorder.before[name]) for name, weight in module.named_parameters()
    )


def test_without_an_optimizer_it_is_adamw(tmp_path):
    module = make_module()
    default = LambdaGRPO(PolicySettings(ADDITION), [token_sum])
    module.optimizer = default.optimizer
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit(module, loader(1))
    (group,) = trainer.optimizers[0].param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-6, 0.0)


def loader(steps):
    return PromptLoader(PromptSet.load(ROWS), prompts_per_batch=2, steps_per_batch=steps)


def test_with_a_loader_of_ones_own_and_no_data_module(tmp_path):
    recorder = Recorder()
    trainer = make_trainer(tmp_path, max_epochs=1, callbacks=[recorder])
    trainer.fit(make_module(micro_batch_size=2), loader(2))
    assert trainer.global_step == 8
    assert len(recorder.rollouts) == 4


def test_one_module_is_trained_twice(tmp_path):
    module = make_module(micro_batch_size=1)
    recorders = Recorder(), Recorder()
    for recorder in recorders:
        trainer = make_trainer(tmp_path, callbacks=[recorder], max_steps=3)
        trainer.fit(module, loader(4))  # the first run ends inside a rollout
    before, after = (recorder.before["policy.model.norm.weight"] for recorder in recorders)
    assert not torch.equal(before, after)  # the second goes on from the first one's weights …
    (first,), (second,) = (recorder.rollouts for recorder in recorders)
    assert first is not second  # … with a rollout of its own
    assert first.prompts == second.prompts
