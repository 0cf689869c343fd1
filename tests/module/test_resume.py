"""A resumed run equals an uninterrupted one, to the bit."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lgrpo_lightning.data.sampler import PromptSampler
from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.policy import LoRASettings
from lgrpo_lightning.resampling import DynamicSampling
from tests.module.runs import (
    HELD_OUT,
    ROWS,
    Recorder,
    equal,
    make_data,
    make_module,
    make_trainer,
    reward,
    weights,
)

STEPS = 12  # optimizer steps; a rollout makes 8, or 4 where two micro-batches are accumulated
CASES = {
    "plain": {},
    "accumulate": {"accumulate": 2},
    "lora": {"policy": {"lora": LoRASettings(r=2, dropout=0.3)}},
    "cut": {"limit": 6},  # an epoch ends inside a rollout
    "dynamic": {
        "dynamic_sampling": DynamicSampling(2),
        "rewards": [reward("starts_with_digit")],
        "importance_cap": 1.5,
    },
}


def run(folder, accumulate=1, checkpoint=None, limit=1.0, **options):
    """Two iterations over rollouts of 4 micro-batches; a checkpoint after each optimizer step."""
    torch.manual_seed(0)  # of a fresh adapter
    module = make_module(
        micro_batch_size=1,
        num_iterations=2,
        loss=LambdaGRPOLoss(kl_coef=0.1),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer),
        **options,
    )
    trainer = make_trainer(
        folder,
        max_steps=STEPS,
        accumulate_grad_batches=accumulate,
        limit_train_batches=limit,
        logger=CSVLogger(folder, name="", version=""),
        enable_checkpointing=True,
        callbacks=[
            ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        ],
    )
    trainer.fit(module, datamodule=make_data(), ckpt_path=checkpoint)
    return module


def logged(folder):
    """What was logged of every optimizer step, all but the time it took."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    for row in rows.values():
        del row["train/tokens_per_second"]
    return rows


@pytest.fixture(scope="module", params=CASES)
def uninterrupted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return CASES[request.param], folder, weights(run(folder, **CASES[request.param]))


@pytest.mark.parametrize("stop", [1, 3, 4, 7, 8])
def test_resumed_at_any_optimizer_step(uninterrupted, stop, tmp_path):
    case, folder, expected = uninterrupted
    module = run(tmp_path, checkpoint=folder / f"step={stop}.ckpt", **case)
    assert equal(weights(module), expected)
    whole = logged(folder)
    assert len(whole) == STEPS
    assert logged(tmp_path) == {step: row for step, row in whole.items() if step >= stop}
    if "dynamic_sampling" in case:
        assert any(float(row["train/resampled_groups"]) for row in whole.values())


def resumed(folder, checkpoint, **options):
    """Resume a run of rollouts of 4 × 2 steps and make one more optimizer step."""
    options = {"micro_batch_size": 1, "num_iterations": 2, **options}
    accumulate = options.pop("accumulate", 1)
    recorder = Recorder()
    trainer = make_trainer(
        folder, max_steps=4, callbacks=[recorder], accumulate_grad_batches=accumulate
    )
    trainer.fit(make_module(**options), datamodule=make_data(), ckpt_path=checkpoint)
    return recorder


@pytest.fixture
def stopped(tmp_path):
    """A checkpoint after 3 of the 8 steps of a rollout, as a mapping, and how to store it."""
    trainer = make_trainer(tmp_path, max_steps=3)
    trainer.fit(make_module(micro_batch_size=1, num_iterations=2), datamodule=make_data())
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    return tmp_path / "stopped.ckpt"


def warnings(caplog):
    return [r.message for r in caplog.records if r.levelname == "WARNING"]


def test_nothing_is_said_when_nothing_is_lost(tmp_path, stopped, caplog):
    (output,) = resumed(tmp_path, stopped).outputs
    assert torch.isfinite(output["loss"])
    assert not warnings(caplog)


def test_a_rollout_that_is_not_at_hand_is_sampled_anew_and_announced(tmp_path, stopped, caplog):
    checkpoint = torch.load(stopped, weights_only=True)
    del checkpoint["lgrpo_rollout"]  # as on several processes
    torch.save(checkpoint, stopped)
    recorder = resumed(tmp_path, stopped)
    assert [(b.rollout, b.step) for b in recorder.batches] == [(0, 3)]
    assert "resuming inside rollout 0 of epoch 0 without its completions" in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"group_size": 4, "micro_batch_size": 2},
        {"micro_batch_size": 2, "num_iterations": 4},
        {"loss": LambdaGRPOLoss(kl_coef=0.1)},
    ],
    ids=["group size", "micro-batches", "KL term"],
)
def test_a_rollout_of_another_kind_is_not_used(tmp_path, stopped, caplog, options):
    (output,) = resumed(tmp_path, stopped, **options).outputs
    assert torch.isfinite(output["loss"])
    assert "sampling anew" in caplog.text


@pytest.mark.parametrize(
    ("options", "data", "said", "first"),
    [
        ({"micro_batch_size": 2}, {}, "steps_per_rollout from 8 to 4", (0, 0, 0)),
        ({}, {"prompts_per_rollout": 1}, "prompts_per_rollout from 2 to 1", (0, 0, 0)),
        ({"seed": 4}, {}, "the seed of sampling from 3 to 4", (0, 0, 3)),
        ({}, {"seed": 1}, "seed from 0 to 1", (0, 0, 0)),
        ({}, {"rows": ROWS[::-1]}, "data from the former prompts to others", (0, 0, 0)),
        ({}, {"rows": ROWS[:4]}, "prompts from 9 to 4", (0, 0, 0)),
    ],
    ids=["micro-batch", "prompts", "sampling seed", "data seed", "data", "fewer data"],
)
def test_what_makes_a_run_go_on_differently_is_announced(
    tmp_path, stopped, caplog, options, data, said, first
):
    recorder = Recorder()
    trainer = make_trainer(tmp_path, max_steps=4, callbacks=[recorder])
    module = make_module(**{"micro_batch_size": 1, "num_iterations": 2, **options})
    trainer.fit(module, datamodule=make_data(**data), ckpt_path=stopped)
    (batch,) = recorder.batches
    assert (batch.epoch, batch.rollout, batch.step) == first
    (message,) = warnings(caplog)
    assert said in message
    assert ("is begun anew" in message) == (first[2] == 0)


@pytest.mark.slow
def test_other_micro_batches_go_on_with_the_prompts_that_are_left(tmp_path):
    """After out of memory: 5 of the 9 rollouts of an epoch are done, in 8 steps each."""
    stop = make_trainer(tmp_path, max_steps=41)
    options = {"num_iterations": 2, "group_size": 4}
    data = {"prompts_per_rollout": 1}
    stop.fit(make_module(micro_batch_size=1, **options), datamodule=make_data(**data))
    stop.save_checkpoint(tmp_path / "a.ckpt")
    recorder = Recorder()
    trainer = make_trainer(tmp_path, max_steps=41 + 10, callbacks=[recorder])
    module = make_module(micro_batch_size=2, **options)
    trainer.fit(module, datamodule=make_data(**data), ckpt_path=tmp_path / "a.ckpt")
    order = PromptSampler(9, 1, shuffle=True, seed=0, drop_last=True).order(0)
    dealt = [(batch.rollout, batch.step, batch.indices) for batch in recorder.batches]
    assert dealt == [(5 + i // 4, i % 4, [order[5 + i // 4]]) for i in range(10)]


@pytest.mark.parametrize("limits", [{"max_steps": 30}, pytest.param({}, marks=pytest.mark.slow)])
def test_an_epoch_that_has_ended_is_not_counted_twice(tmp_path, limits):
    """Of 8 steps each; the checkpoint is taken where the first has ended."""

    def three_epochs(callbacks=(), checkpoint=None):
        module = make_module(micro_batch_size=2)
        keeps = bool(callbacks)
        trainer = make_trainer(
            tmp_path, max_epochs=3, **limits, callbacks=list(callbacks), enable_checkpointing=keeps
        )
        trainer.fit(module, datamodule=make_data(eval_path=HELD_OUT), ckpt_path=checkpoint)
        assert (trainer.global_step, trainer.current_epoch) == (24, 3)
        return weights(module)

    name = "{step}"
    keep = ModelCheckpoint(tmp_path, filename=name, every_n_epochs=1, save_top_k=-1)
    whole = three_epochs([keep])
    for step in (8, 24):
        assert equal(three_epochs(checkpoint=tmp_path / f"step={step}.ckpt"), whole)


def in_halves(folder, callbacks=(), checkpoint=None):
    """4 optimizer steps of 4 micro-batches each, evaluated in the midst of two of them."""
    module = make_module(micro_batch_size=1, num_iterations=2)
    trainer = make_trainer(
        folder,
        max_steps=4,
        accumulate_grad_batches=4,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        callbacks=list(callbacks),
    )
    trainer.fit(module, datamodule=make_data(eval_path=HELD_OUT), ckpt_path=checkpoint)
    return weights(module)


class SaveAtEvaluation(Callback):
    def on_validation_end(self, trainer, pl_module):
        batches = trainer.fit_loop.total_batch_idx + 1
        trainer.save_checkpoint(Path(trainer.default_root_dir) / f"{batches}.ckpt")


def test_a_checkpoint_between_optimizer_steps_is_of_the_last_one(tmp_path, caplog):
    whole = in_halves(tmp_path, [SaveAtEvaluation()])
    for batches, done in ((3, 0), (6, 4), (15, 12)):
        checkpoint = torch.load(tmp_path / f"{batches}.ckpt", weights_only=True)
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        assert progress["total"]["ready"] == done
        assert ("lgrpo_rollout" in checkpoint) == (done % 8 > 0)
        recorder = Recorder()
        assert equal(in_halves(tmp_path, [recorder], tmp_path / f"{batches}.ckpt"), whole)
        assert len(recorder.batches) == 16 - done
    assert not warnings(caplog)


def test_other_gradient_accumulation_inside_a_rollout_is_announced(tmp_path, stopped, caplog):
    resumed(tmp_path, stopped, accumulate=2)
    assert "the next one lacks its first 1 micro-batches" in caplog.text


class Fails(Callback):
    """Raises at an optimizer step: before its rollout is made, or between forward and backward."""

    def __init__(self, hook, step):
        self.hook, self.step = hook, step

    def fail(self, hook, trainer):
        if (hook, trainer.global_step) == (self.hook, self.step):
            raise RuntimeError("out of memory")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.fail("start", trainer)

    def on_before_backward(self, trainer, pl_module, loss):
        self.fail("backward", trainer)


def until_error(folder, callbacks=(), checkpoint=None):
    """10 optimizer steps: two rollouts of 4, then the first half of the next epoch's first one."""
    module = make_module(micro_batch_size=2, num_iterations=2)
    trainer = make_trainer(
        folder, max_steps=10, callbacks=list(callbacks), enable_checkpointing=True
    )
    trainer.fit(module, datamodule=make_data(ROWS[:4]), ckpt_path=checkpoint)
    return weights(module)


@pytest.fixture(scope="module")
def never_failed(tmp_path_factory):
    return until_error(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("hook", ["start", "backward"])
@pytest.mark.parametrize("step", [4, 6, 7, 8])
def test_a_step_that_an_error_broke_off_is_made_again(tmp_path, caplog, never_failed, hook, step):
    keep = OnExceptionCheckpoint(tmp_path, filename="error")
    with pytest.raises(RuntimeError, match="out of memory"):
        until_error(tmp_path, [Fails(hook, step), keep])
    assert equal(until_error(tmp_path, checkpoint=tmp_path / "error.ckpt"), never_failed)
    assert not warnings(caplog)
