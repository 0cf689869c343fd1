"""Resuming in float16, where the gradient scaler's state is part of the run."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.module.runs import equal, make_data, make_module, make_trainer, weights


def run(folder, checkpoint=None):
    """8 optimizer steps, two rollouts of 4, and the scale of the gradients at the end."""
    module = make_module(
        micro_batch_size=2,
        num_iterations=2,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    )
    keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = make_trainer(
        folder,
        accelerator="gpu",
        precision="16-mixed",
        deterministic="warn",
        max_steps=8,
        enable_checkpointing=True,
        callbacks=[keep],
    )
    trainer.fit(module, datamodule=make_data(), ckpt_path=checkpoint)
    return weights(module), trainer.precision_plugin.state_dict()


@pytest.mark.gpu
@pytest.mark.parametrize("step", [1, 4, 6])
def test_weights_and_scale_are_those_of_a_run_never_stopped(tmp_path, monkeypatch, step):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    whole, scale = run(tmp_path / "whole")
    found, scale_found = run(tmp_path / "resumed", tmp_path / "whole" / f"step={step}.ckpt")
    assert equal(found, whole)
    assert scale_found == scale
    assert scale["scale"] > 0
