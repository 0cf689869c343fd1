"""A resumed run equals an uninterrupted one, to the bit."""

import csv

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.policy import LoRASettings
from tests.module.runs import equal, make_data, make_module, make_trainer, weights

STEPS = 12  # optimizer steps: two rollouts of 2 × 2, in an epoch of four, and one more
CASES = {
    "plain": {},
    "accumulate": {"accumulate": 2},
    "lora": {"policy": {"lora": LoRASettings(r=2, dropout=0.3)}},
}


def run(folder, accumulate=1, checkpoint=None, **options):
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
