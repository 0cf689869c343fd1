"""Automatic optimisation is exact: every option of the Trainer counts as it always does."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from tests.module.runs import (
    HELD_OUT,
    Recorder,
    equal,
    make_data,
    make_module,
    make_trainer,
    weights,
)


def fit(folder, module=None, data=None, **options):
    recorder = Recorder()
    callbacks = [recorder, *options.pop("callbacks", [])]
    trainer = make_trainer(folder, callbacks=callbacks, **options)
    module = module or make_module()
    trainer.fit(module, datamodule=data or make_data())
    return trainer, module, recorder


def test_an_epoch_makes_every_rollout_once(tmp_path):
    trainer, _, recorder = fit(tmp_path, max_epochs=2)
    assert trainer.global_step == 2 * 4
    assert [(b.epoch, b.rollout) for b in recorder.batches] == [
        (epoch, rollout) for epoch in range(2) for rollout in range(4)
    ]


@pytest.mark.parametrize(
    ("size", "accumulate", "iterations", "micro_batches", "optimizer_steps"),
    [(None, 1, 1, 4, 4), (1, 4, 1, 16, 4), (1, 2, 1, 16, 8), (2, 1, 2, 16, 16), (1, 4, 3, 48, 12)],
)
def test_micro_batches_accumulate_to_optimizer_steps(
    tmp_path, size, accumulate, iterations, micro_batches, optimizer_steps
):
    module = make_module(micro_batch_size=size, num_iterations=iterations)
    trainer, _, recorder = fit(tmp_path, module, max_epochs=1, accumulate_grad_batches=accumulate)
    assert len(recorder.batches) == micro_batches
    assert trainer.global_step == len(recorder.gradients) == optimizer_steps
    assert len(recorder.rollouts) == 4


def test_max_steps_counts_optimizer_steps(tmp_path):
    trainer, _, recorder = fit(
        tmp_path, make_module(micro_batch_size=1), max_steps=3, accumulate_grad_batches=2
    )
    assert trainer.global_step == 3
    assert len(recorder.batches) == 6  # the second rollout is left half done


def test_the_scheduler_is_stepped_every_optimizer_step(tmp_path):
    module = make_module(
        micro_batch_size=1,
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 1 / (1 + step)
        ),
    )
    _, _, recorder = fit(tmp_path, module, max_steps=5, accumulate_grad_batches=2)
    assert recorder.rates == pytest.approx([0.01 / (1 + step) for step in range(5)])


def test_clipping_bounds_the_gradient_of_an_optimizer_step(tmp_path):
    limit = 0.1

    def step_length(**options):
        module = make_module(micro_batch_size=4, group_size=8)
        _, _, recorder = fit(tmp_path, module, max_steps=1, accumulate_grad_batches=4, **options)
        changes = [p.detach() - recorder.before[name] for name, p in module.named_parameters()]
        return float(sum(change.double().square().sum() for change in changes)) ** 0.5 / 0.01

    assert step_length() > 2 * limit
    assert step_length(gradient_clip_val=limit) == pytest.approx(limit, rel=1e-2)


def test_checkpoints_are_written_every_so_many_optimizer_steps(tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    fit(
        tmp_path,
        make_module(micro_batch_size=1),
        max_steps=6,
        accumulate_grad_batches=2,
        callbacks=[keep],
        enable_checkpointing=True,
    )
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == [
        "step=2.ckpt",
        "step=4.ckpt",
        "step=6.ckpt",
    ]


def test_evaluation_every_so_many_training_steps_changes_nothing(tmp_path):
    module = make_module(micro_batch_size=2)
    _, alone, _ = fit(tmp_path, make_module(micro_batch_size=2), max_steps=6)
    data = make_data(eval_path=HELD_OUT)
    options = {"val_check_interval": 3, "check_val_every_n_epoch": None}
    _, _, recorder = fit(tmp_path, module, data, max_steps=6, **options)
    assert recorder.validated_at == [3, 6]
    assert equal(weights(module), weights(alone))


def test_limit_train_batches_may_cut_a_rollout(tmp_path):
    module = make_module(micro_batch_size=1)
    logger = CSVLogger(tmp_path, name="", version="")
    options = {"limit_train_batches": 6, "accumulate_grad_batches": 4, "logger": logger}
    trainer, _, recorder = fit(tmp_path, module, max_epochs=2, **options)
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 2 * 2
    assert trainer.global_step == 2 * 2  # 4 micro-batches, then the 2 that are left
    assert [b.step for b in recorder.batches] == [0, 1, 2, 3, 0, 1] * 2


def test_overfit_batches_trains_on_the_same_prompts(tmp_path):
    data = make_data(eval_path=HELD_OUT)
    _, _, recorder = fit(tmp_path, data=data, max_epochs=3, overfit_batches=2)
    assert [b.indices for b in recorder.batches] == [[0, 1], [2, 3]] * 3
    assert [b.epoch for b in recorder.batches] == [0, 0, 1, 1, 2, 2]


def test_fast_dev_run(tmp_path):
    data = make_data(eval_path=HELD_OUT)
    trainer, _, recorder = fit(tmp_path, make_module(micro_batch_size=2), data, fast_dev_run=True)
    assert trainer.global_step == len(recorder.batches) == len(recorder.evaluated) == 1


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_precision(tmp_path, precision, gpt2):
    module = make_module(gpt2, micro_batch_size=2, num_iterations=2)
    trainer, _, recorder = fit(tmp_path, module, max_steps=6, precision=precision)
    assert trainer.global_step == 6
    held = {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(precision, torch.float32)
    assert {p.dtype for p in module.parameters()} == {held}
    # Log-probs are never rounded to half precision, which would drown small ratios.
    exact = torch.float64 if precision == "64-true" else torch.float32
    assert {o["logprobs"].dtype for o in recorder.outputs} == {exact}
    assert all(torch.isfinite(o["loss"]) for o in recorder.outputs)
